"""What can go wrong between us and a charger: faults of the peer, faults of the link, and our own mistakes."""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Codes of a CALLERROR (OCPP-J 2.0.1 section 4.3)."""

    FORMAT_VIOLATION = "FormatViolation"
    GENERIC_ERROR = "GenericError"
    INTERNAL_ERROR = "InternalError"
    MESSAGE_TYPE_NOT_SUPPORTED = "MessageTypeNotSupported"
    NOT_IMPLEMENTED = "NotImplemented"
    NOT_SUPPORTED = "NotSupported"
    OCCURRENCE_CONSTRAINT_VIOLATION = "OccurrenceConstraintViolation"
    PROPERTY_CONSTRAINT_VIOLATION = "PropertyConstraintViolation"
    PROTOCOL_ERROR = "ProtocolError"
    RPC_FRAMEWORK_ERROR = "RpcFrameworkError"
    SECURITY_ERROR = "SecurityError"
    TYPE_CONSTRAINT_VIOLATION = "TypeConstraintViolation"


class OcppError(Exception):
    """Root of what this package raises to itself; towards the gateway it becomes a DeviceError."""


class OwnMistakeError(OcppError):
    """We were about to send what the schemas forbid, or used the engine against its contract. A bug of ours."""


class CallError(OcppError):
    """A call of ours came to nothing."""


class QueueFullError(CallError):
    """Too many calls wait for this charger already. Nothing was sent."""


class NotInVersionError(CallError):
    """The action exists in another version of the protocol than this connection's. Nothing was sent."""


class NotConnectedError(CallError):
    """There is no connection to the charger, or it ended before the answer."""


class CallTimeoutError(CallError):
    """No answer before the deadline, which counts from when the call was asked for."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
        """Whether the call went out: if so, it is unknown whether the charger acted on it."""


class CallRefusedError(CallError):
    """The charger answered with CALLERROR."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidAnswerError(CallError):
    """The charger's answer is not what the specification allows as an answer to this call."""


def quoted(text: object, most: int = 60) -> str:
    """What a peer sent, safe to stand in a sentence or log: escaped and cut."""
    shown = ascii(text)
    return shown if len(shown) <= most else shown[: most - 3] + "..."
