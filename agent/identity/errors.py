"""Errors of identity: what was presented as a name, a certificate request or a trust list, and does not hold."""


class IdentityError(Exception):
    """Root of this package's errors. The message says what, where, and what to do about it."""


class KeyFileError(IdentityError):
    """A public key, as a file or as bytes, cannot be used here."""


class DidError(IdentityError):
    """Not a did:key that names a key of a kind used here."""


class CertificateRequestError(IdentityError):
    """A certificate request could not be made from what was given."""


class TrustListError(IdentityError):
    """A trust list that must not be used. Go on with the one that is held."""


class HistoryError(IdentityError):
    """A history of an identifier, or an entry or order for it, that must not be believed."""
