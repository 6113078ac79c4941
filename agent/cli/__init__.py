"""Commands for people: `v2g-gateway ...`, each with --json and a good exit code. No logic of the gateway lives here."""
