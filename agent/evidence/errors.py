"""Errors of evidence. Every one is about something that was presented; none is a fault of ours."""


class EvidenceError(Exception):
    """Something presented as evidence does not hold. The message says what, where, and why."""


class MalformedError(EvidenceError):
    """Not in the format: it cannot be read, so nothing about it was checked."""


class UnsupportedError(EvidenceError):
    """An algorithm, kind or version that this verifier does not know. Refused, never guessed."""


class SignatureError(EvidenceError):
    """The signature does not verify, or is by a key that is not trusted for it."""


class ProofError(EvidenceError):
    """The signature may hold, but the thing is not proven by it: inclusion, size, chain or identity differ."""
