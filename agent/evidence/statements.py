"""The statements: everything that must be proven, and its one encoding.

A statement is a deterministic CBOR array: [kind, version, fields...]. Layouts: proto/EVIDENCE.md section 2.
A layout never changes; what needs another field gets another version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.clock import ClockQuality
from agent.evidence import cbor
from agent.evidence.errors import MalformedError, UnsupportedError
from agent.evidence.fields import Fields
from agent.evidence.kinds import (
    Alarm,
    Attestation,
    CommandReceipt,
    CommandState,
    Kind,
    MeteringPoint,
    MeteringTree,
    Sealing,
    SettlementWindow,
    Severity,
    SignedMeterValue,
    Statement,
    Thinning,
    TpmQuote,
)
from agent.evidence.thinning_fields import quality_of, read_thinning, thinning_fields
from agent.measure.reading import MOST_SIGNED_VALUES, Reading, SignatureReference
from drivers.device import MOST_RECORD_BYTES, SignatureVerdict, ValueSource

MAX_STATEMENT_BYTES: Final = 64 * 1024
MAX_WORDS: Final = 4096
"""Characters of a text for a person: what is longer is cut."""


VERSION: Final = 1
SIGNED_READING_VERSION: Final = 3
"""Of a reading that names what the meter signed. There is no version 2: vectors use it as the unknown one."""
QUOTED_ATTESTATION_VERSION: Final = 2
"""Of an attestation that holds a TPM's quote."""
MOST_QUOTE_BYTES: Final = 1024
"""Of each of its structures."""
MOST_PCRS: Final = 24

_KINDS: Final[dict[type, Kind]] = {
    Sealing: Kind.SEALING,
    Reading: Kind.READING,
    CommandReceipt: Kind.COMMAND_RECEIPT,
    SettlementWindow: Kind.SETTLEMENT_WINDOW,
    Attestation: Kind.ATTESTATION,
    Alarm: Kind.ALARM,
    MeteringTree: Kind.METERING_TREE,
    SignedMeterValue: Kind.SIGNED_METER_VALUE,
    Thinning: Kind.THINNING,
}


def kind_of(statement: Statement) -> Kind:
    """The number that stands first in its encoding."""
    return _KINDS[type(statement)]


def encode(statement: Statement) -> bytes:
    """The leaf bytes of a statement."""
    return cbor.encode(_fields(statement))


def _fields(s: Statement) -> cbor.Value:
    match s:
        case Reading():
            version = SIGNED_READING_VERSION if s.signed_values else VERSION
            reading: list[cbor.Value] = [
                int(Kind.READING), version, s.device_id, s.incarnation, s.boot_id, s.sequence, s.timestamp_us,
                s.net_energy_wh, s.import_register_milliwatt_hours, s.export_register_milliwatt_hours,
                s.meter_epoch, s.power_w, s.voltage_millivolts, s.state_of_charge_permille,
                s.frequency_millihertz, int(s.quality), int(s.source),
            ]  # fmt: skip
            if s.signed_values:
                reading.append([[r.statement_hash, int(r.verdict)] for r in s.signed_values])
            return reading
        case Sealing():
            return [int(Kind.SEALING), VERSION, s.sealed_at_us, int(s.clock_quality), s.clock_error_bound_us]
        case CommandReceipt():
            return [
                int(Kind.COMMAND_RECEIPT), VERSION, s.command_hash, s.command_id, int(s.state), s.timestamp_us,
                _words(s.reason), s.delivered_energy_wh,
            ]  # fmt: skip
        case SettlementWindow():
            return [
                int(Kind.SETTLEMENT_WINDOW), VERSION, s.device_id, s.incarnation, s.window_start_us,
                s.window_end_us, s.revision, s.import_wh, s.export_wh, s.net_energy_wh, s.first_sequence,
                s.last_sequence, s.reading_count, s.readings_root, s.meter_epoch, int(s.quality),
                list(s.command_hashes),
            ]  # fmt: skip
        case Attestation():
            version = VERSION if s.quote is None else QUOTED_ATTESTATION_VERSION
            attestation: list[cbor.Value] = [
                int(Kind.ATTESTATION), version, s.timestamp_us, s.valid_until_us, s.software_version,
                s.software_digest, s.metrology_digest,
            ]  # fmt: skip
            if s.quote is not None:
                attestation.append([s.quote.public, s.quote.message, s.quote.signature, list(s.quote.pcrs)])
            return attestation
        case Alarm():
            subject, text = _words(s.subject), _words(s.text)
            return [int(Kind.ALARM), VERSION, s.timestamp_us, int(s.severity), s.code, subject, text]
        case MeteringTree():
            points: list[cbor.Value] = [[p.device_id, p.parent_id, p.settled] for p in s.points]
            return [int(Kind.METERING_TREE), VERSION, s.timestamp_us, points]
        case SignedMeterValue():
            return [
                int(Kind.SIGNED_METER_VALUE), VERSION, s.device_id, s.timestamp_us, int(s.verdict), _words(s.reason),
                _words(s.encoding_method), s.record, s.key_der, s.transaction_id, _words(s.context),
            ]  # fmt: skip
        case Thinning():
            return [int(Kind.THINNING), VERSION, *thinning_fields(s)]


def _words(text: str) -> str:
    """Text for a person, as it can be stored and verified: cut, and half characters (undecoded bytes) as "?".

    Words come from faults and peers, and one statement that cannot be encoded or read again would hold up all others.
    """
    return text[:MAX_WORDS].encode("utf-8", "replace").decode("utf-8")


def decode(encoded: bytes) -> Statement:
    """The statement of a leaf. Raises MalformedError, or UnsupportedError for a kind or version not known here."""
    value = cbor.decode(encoded, what="statement", most_bytes=MAX_STATEMENT_BYTES)
    match value:
        case [int(kind), int(version), *fields] if not isinstance(kind, bool) and not isinstance(version, bool):
            pass
        case _:
            raise MalformedError("statement: not an array of kind, version and fields")
    if (kind, version) not in _DECODERS:
        raise UnsupportedError(f"statement: kind {kind} version {version} is not known here")
    try:
        return _DECODERS[kind, version](Fields(fields, first=2))
    except (ValueError, TypeError) as error:
        raise MalformedError(f"statement of kind {Kind(kind).name}: {error}") from error


def _reading(f: Fields) -> Reading:
    reading = _plain_reading(f)
    f.end()
    return reading


def _signed_reading(f: Fields) -> Reading:
    reading = _plain_reading(f)
    signed = []
    for item in f.items():
        if not isinstance(item, list):
            raise TypeError("a reference to a signed value is not an array")
        r = Fields(item)
        signed.append(SignatureReference(statement_hash=r.octets(32), verdict=SignatureVerdict(r.count())))
        r.end()
    f.end()
    if not 1 <= len(signed) <= MOST_SIGNED_VALUES:
        raise ValueError(f"names {len(signed)} signed values; 1 to {MOST_SIGNED_VALUES} are right")
    if reading.source is ValueSource.SIGNED_BY_METER and not any(
        r.verdict is SignatureVerdict.VERIFIED for r in signed
    ):
        raise ValueError("is said to be signed by the meter, and names no verified value")
    return replace(reading, signed_values=tuple(signed))


def _plain_reading(f: Fields) -> Reading:
    return Reading(
        device_id=f.text(),
        incarnation=f.ordinal(),
        boot_id=f.octets(16),
        sequence=f.ordinal(),
        timestamp_us=f.count(),
        net_energy_wh=f.number(),
        import_register_milliwatt_hours=f.count_or_none(),
        export_register_milliwatt_hours=f.count_or_none(),
        meter_epoch=f.ordinal(),
        power_w=f.number_or_none(),
        voltage_millivolts=f.count_or_none(),
        state_of_charge_permille=f.count_or_none(),
        frequency_millihertz=f.count_or_none(),
        quality=quality_of(f),
        source=ValueSource(f.count()),
    )


def _sealing(f: Fields) -> Sealing:
    sealing = Sealing(
        sealed_at_us=f.count(),
        clock_quality=ClockQuality(f.count()),
        clock_error_bound_us=f.count_or_none(),
    )
    f.end()
    return sealing


def _command_receipt(f: Fields) -> CommandReceipt:
    receipt = CommandReceipt(
        command_hash=f.octets(32),
        command_id=f.text(),
        state=CommandState(f.count()),
        timestamp_us=f.count(),
        reason=f.text(),
        delivered_energy_wh=f.number_or_none(),
    )
    f.end()
    return receipt


def _window(f: Fields) -> SettlementWindow:
    window = SettlementWindow(
        device_id=f.text(),
        incarnation=f.ordinal(),
        window_start_us=f.count(),
        window_end_us=f.count(),
        revision=f.count(),
        import_wh=f.number(),
        export_wh=f.number(),
        net_energy_wh=f.number(),
        first_sequence=f.count_or_none(),
        last_sequence=f.count_or_none(),
        reading_count=f.count(),
        readings_root=f.octets(32),
        meter_epoch=f.count(),
        quality=quality_of(f),
        command_hashes=tuple(Fields([item]).octets(32) for item in f.items()),
    )
    f.end()
    if window.net_energy_wh != window.import_wh - window.export_wh:
        raise ValueError("net energy is not import minus export")
    return window


def _attestation(f: Fields) -> Attestation:
    attestation = _plain_attestation(f)
    f.end()
    return attestation


def _quoted_attestation(f: Fields) -> Attestation:
    """That the quote holds is checked where it is judged: `tpm_quote.check_attestation`."""
    attestation = _plain_attestation(f)
    q = Fields(f.items())
    public, message, signature = (q.octets() for _ in range(3))
    pcrs = tuple(Fields([item]).octets(32) for item in q.items())
    q.end()
    f.end()
    if not all(1 <= len(part) <= MOST_QUOTE_BYTES for part in (public, message, signature)):
        raise ValueError(f"each part of a quote has 1 to {MOST_QUOTE_BYTES} bytes")
    if not 1 <= len(pcrs) <= MOST_PCRS:
        raise ValueError(f"a quote over {len(pcrs)} PCRs; 1 to {MOST_PCRS} are right")
    return replace(attestation, quote=TpmQuote(public=public, message=message, signature=signature, pcrs=pcrs))


def _plain_attestation(f: Fields) -> Attestation:
    return Attestation(
        timestamp_us=f.count(),
        valid_until_us=f.count(),
        software_version=f.text(),
        software_digest=f.octets(32),
        metrology_digest=f.octets(32),
    )


def _alarm(f: Fields) -> Alarm:
    alarm = Alarm(
        timestamp_us=f.count(),
        severity=Severity(f.count()),
        code=f.text(),
        subject=f.text(),
        text=f.text(),
    )
    f.end()
    return alarm


def _metering_tree(f: Fields) -> MeteringTree:
    timestamp_us = f.count()
    points = []
    for item in f.items():
        if not isinstance(item, list):
            raise TypeError("a metering point is not an array")
        p = Fields(item)
        points.append(MeteringPoint(device_id=p.text(), parent_id=p.text_or_none(), settled=p.flag()))
        p.end()
    f.end()
    return MeteringTree(timestamp_us=timestamp_us, points=tuple(points))


def _signed_meter_value(f: Fields) -> SignedMeterValue:
    value = SignedMeterValue(
        device_id=f.text(),
        timestamp_us=f.count(),
        verdict=SignatureVerdict(f.count()),
        reason=f.text(),
        encoding_method=f.text(),
        record=f.octets(),
        key_der=f.octets_or_none(),
        transaction_id=f.text_or_none(),
        context=f.text(),
    )
    f.end()
    if not 1 <= len(value.record) <= MOST_RECORD_BYTES:
        raise ValueError(f"a record of {len(value.record)} bytes; 1 to {MOST_RECORD_BYTES} are right")
    if value.key_der is None and value.verdict is not SignatureVerdict.UNVERIFIABLE:
        raise ValueError("a verdict without the key that it was made with")
    return value


_DECODERS: Final[dict[tuple[int, int], Callable[[Fields], Statement]]] = {
    (Kind.READING, VERSION): _reading,
    (Kind.READING, SIGNED_READING_VERSION): _signed_reading,
    (Kind.SEALING, VERSION): _sealing,
    (Kind.COMMAND_RECEIPT, VERSION): _command_receipt,
    (Kind.SETTLEMENT_WINDOW, VERSION): _window,
    (Kind.ATTESTATION, VERSION): _attestation,
    (Kind.ATTESTATION, QUOTED_ATTESTATION_VERSION): _quoted_attestation,
    (Kind.ALARM, VERSION): _alarm,
    (Kind.METERING_TREE, VERSION): _metering_tree,
    (Kind.SIGNED_METER_VALUE, VERSION): _signed_meter_value,
    (Kind.THINNING, VERSION): read_thinning,
}

__all__ = [
    "MAX_STATEMENT_BYTES",
    "MAX_WORDS",
    "QUOTED_ATTESTATION_VERSION",
    "SIGNED_READING_VERSION",
    "VERSION",
    "Alarm",
    "Attestation",
    "CommandReceipt",
    "CommandState",
    "Kind",
    "MeteringPoint",
    "MeteringTree",
    "Sealing",
    "SettlementWindow",
    "Severity",
    "SignedMeterValue",
    "Statement",
    "Thinning",
    "TpmQuote",
    "decode",
    "encode",
    "kind_of",
]
