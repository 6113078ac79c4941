"""Errors of the ledger."""


class LedgerError(Exception):
    """Something about settlement does not hold. The message says what, where, and what to do."""


class ChannelError(LedgerError):
    """A channel state or message that was presented is malformed or not properly signed."""


class MeteringTreeError(LedgerError):
    """The metering tree would settle energy twice, or is no tree."""
