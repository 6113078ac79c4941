"""What attestations in evidence say of the gateway's machine, and whether the TPM quotes in them hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from agent.evidence.cose import VerifyKey
from agent.evidence.errors import ProofError
from agent.evidence.kinds import Attestation, Statement
from agent.evidence.tpm_quote import Quoted, check_attestation


@dataclass(slots=True)
class AttestationCheck:
    """Takes the statements of a run of batches in order."""

    known_key: VerifyKey | None = None
    """The TPM key that the verifier trusts; None: he knows none, and whose key it is stays open."""
    count: int = 0
    quoted: Counter[bytes] = field(default_factory=Counter)
    """Quotes that hold, by the name of the TPM key."""
    newest: tuple[Attestation, Quoted | None] | None = None
    """By time."""

    def see(self, statement: Statement) -> list[str]:
        """What is claimed and not so, in words; empty when all holds."""
        if not isinstance(statement, Attestation):
            return []
        self.count += 1
        try:
            quote = check_attestation(statement)
        except ProofError as error:
            return [f"attestation of version {statement.software_version[:40]}: {error}"]
        if self.newest is None or statement.timestamp_us >= self.newest[0].timestamp_us:
            self.newest = statement, quote
        if quote is None:
            return []
        if self.known_key is not None and quote.key != self.known_key:
            return [
                f"attestation of version {statement.software_version[:40]}: its TPM quote is by key "
                f"{quote.key_name.hex()[:20]}, which is not the one that you trust: another machine, or another TPM"
            ]
        self.quoted[quote.key_name] += 1
        return []
