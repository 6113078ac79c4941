"""Errors of the token room. What a signer can raise is also a SignerUnavailableError: whoever waits for it waits on."""

from __future__ import annotations

from drivers.device import SignerUnavailableError


class TokenError(Exception):
    """Root of this package's errors. The message says what, on which token or key, and what to do; never a PIN."""


class TokenUnavailableError(TokenError, SignerUnavailableError):
    """The token cannot sign now. It is tried again by itself; ask again later."""


class TokenAbsentError(TokenUnavailableError):
    """The module, or the token that was selected, is not there."""


class TokenAmbiguousError(TokenUnavailableError):
    """Two tokens answer to the selection: signing with either would be a guess."""


class TokenBusyError(TokenUnavailableError):
    """The queue is full, or the deadline passed before the token had signed."""


class PinRefusedError(TokenUnavailableError):
    """The PIN is wrong, locked or cannot be read. A refused PIN is never tried again: a few more lock the token."""


class PinLockedError(PinRefusedError):
    """The token takes no PIN at all for now, and judged none. A TPM opens by itself after its recovery time: power cuts
    alone can bring it there, as each may count as a wrong try."""


class KeyRefusedError(TokenError, SignerUnavailableError):
    """The token is well, and this key on it must not be used: not the pinned one, extractable, imported, ambiguous."""


class KeyMissingError(KeyRefusedError):
    """The token has no such key."""


class KeyExistsError(TokenError):
    """A key was to be made under an id that is taken. Keys are never written over."""
