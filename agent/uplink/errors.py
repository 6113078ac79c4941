"""Errors of the uplink. The platform's faults are told apart from a link that is merely gone."""


class UplinkError(Exception):
    """Something about the link to the platform. The message says what, where, and what to do."""


class LinkDownError(UplinkError):
    """There is no connection, or it ended. Comes back by itself; what waits is in the store."""


class LeftError(LinkDownError):
    """We left, for a good reason."""


class StalledError(LinkDownError):
    """The platform has stopped to acknowledge, or to end a finished stream."""


class PlatformFaultError(UplinkError):
    """The platform sent what the contract does not allow. The connection is ended, and an alarm may follow."""


class CredentialsError(UplinkError):
    """The certificate, the CA file or the token's key cannot be used for TLS. A person has to look."""
