"""What runs here, measured: digests of the installed agent and of its metrology-relevant settings, for attestation.

Takes the signer that it needs as an argument; imports nothing of `agent/`. Updates come with a later issue.
"""
