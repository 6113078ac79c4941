"""Signed meter values of one EVSE: each judged by the registered key of its meter, kept verbatim, and its begin and end
held against each other. No I/O.

The key in a message is only ever compared with the registered one. A charger whose signatures are wrong charges on: it
is alarmed and written down, and its readings do not count as signed by the meter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from drivers.device import MOST_RECORD_BYTES, SignatureVerdict, SignedValue
from drivers.ocmf.errors import MeterKeyError
from drivers.ocmf.judge import Registers, contradictions, covers, judge
from drivers.ocmf.keys import MeterKey, key_from_text
from drivers.ocmf.record import Payload, Register
from drivers.ocpp.errors import quoted
from drivers.ocpp.messages import SignedMeterValue
from drivers.ocpp.meter_values import MeterLook

REMEMBERED_BEGINS: Final = 4
"""Transactions whose signed begin is remembered: the running one, and those whose end is still queued."""
KEPT_AT_ONCE_BYTES: Final = 256 * 1024
KEPT_BYTES_PER_S: Final = 2048.0
"""So much is kept of one meter, whatever its charger sends: a record a second, and some days without a connection at
once. What is beyond is judged all the same, and not kept."""
_ENERGY: Final = (Register.IMPORT, Register.EXPORT)


@dataclass(slots=True)
class Judged:
    """What came of the signed values of one look. `notices` are (code, text)."""

    values: tuple[SignedValue, ...] = ()
    covers_registers: bool = False
    """Verified signatures stand for every register of the look."""
    notices: list[tuple[str, str]] = field(default_factory=list)


class SignedValues:
    """The signatures of one EVSE's meter. `key` is the registered one; None: none is."""

    def __init__(self, key: MeterKey | None) -> None:
        self._key = key
        self._allowance_bytes = float(KEPT_AT_ONCE_BYTES)
        self._allowed_s: float | None = None
        self._begins: dict[str, dict[Register, tuple[str, int]]] = {}
        """transaction -> register -> serial number of the meter, milliwatt-hours."""

    def take(self, look: MeterLook, transaction_id: str | None, now_s: float) -> Judged:
        """Judge the signed values that came with a look. `now_s` is monotonic."""
        judged = Judged()
        if not look.signed:
            return judged
        payloads: list[Payload] = []
        kept: dict[bytes, SignedValue] = {}
        for signed in look.signed:
            self._compare_key(signed.sent, judged)
            record = signed.sent["signedMeterData"].encode("utf-8", "replace")
            if record in kept:  # the import and the export register may carry one record
                continue
            if not 0 < len(record) <= MOST_RECORD_BYTES:
                text = f"a signed value of {len(record)} octets was left out; 1 to {MOST_RECORD_BYTES} are kept"
                judged.notices.append(("charger.signed_value_wrong", text))
                continue
            method = signed.sent["encodingMethod"]
            found = judge(record, method, self._key)
            if found.verdict is SignatureVerdict.WRONG:
                text = f"the meter's signature is wrong: {found.reason}; the value is kept and counts as not signed"
                judged.notices.append(("charger.signed_value_wrong", text))
            elif found.verdict is SignatureVerdict.UNVERIFIABLE and self._key is not None:
                judged.notices.append(("charger.signed_value_unverifiable", f"a signed value: {found.reason}"))
            if not self._has_room(len(record), now_s):
                text = f"signs more than {KEPT_BYTES_PER_S:.0f} bytes a second: some of it is not kept"
                judged.notices.append(("charger.signed_values_left_out", text))
                continue
            if found.payload is not None:
                payloads.append(found.payload)
                judged.notices += _not_good(found.payload)
            kept[record] = SignedValue(
                record=record,
                encoding_method=method,
                verdict=found.verdict,
                reason=found.reason,
                key_der=None if self._key is None else self._key.der,
                transaction_id=transaction_id,
                context=signed.context,
            )
        judged.values = tuple(kept.values())
        plain = Registers(look.import_register_milliwatt_hours, look.export_register_milliwatt_hours)
        judged.covers_registers = covers(payloads, plain)
        judged.notices += [("charger.signed_value_differs", text) for text in contradictions(payloads, plain)]
        if transaction_id is not None:
            judged.notices += self._follow(payloads, transaction_id)
        return judged

    def _has_room(self, record_bytes: int, now_s: float) -> bool:
        """Whether so much may be kept now; then it counts as kept."""
        since_s = 0.0 if self._allowed_s is None else max(0.0, now_s - self._allowed_s)
        self._allowed_s = now_s
        self._allowance_bytes = min(KEPT_AT_ONCE_BYTES, self._allowance_bytes + since_s * KEPT_BYTES_PER_S)
        if record_bytes > self._allowance_bytes:
            return False
        self._allowance_bytes -= record_bytes
        return True

    def _compare_key(self, sent: SignedMeterValue, judged: Judged) -> None:
        text = sent.get("publicKey", "")
        if not text.strip():
            return
        try:
            key = key_from_text(text)
        except MeterKeyError as error:
            if self._key is not None:
                judged.notices.append(("charger.meter_key", f"sends a key that cannot be read: {error}"))
            return
        if self._key is None:
            text = (
                f"its meter signs, and no key is registered; it names one with SHA-256 {key.fingerprint.hex()}: "
                "compare it with the meter's own, then write it to a file and set meter_key_file"
            )
            judged.notices.append(("charger.meter_key", text))
        elif key != self._key:
            text = (
                f"sends another key (SHA-256 {key.fingerprint.hex()}) than the one that is registered for its meter "
                f"({self._key.fingerprint.hex()}); the registered one counts. Was the meter replaced?"
            )
            judged.notices.append(("charger.meter_key", text))

    def _follow(self, payloads: Sequence[Payload], transaction_id: str) -> list[tuple[str, str]]:
        """Hold the signed end of a transaction against its signed begin."""
        notices = []
        for payload in payloads:
            serial = payload.meter_serial or payload.gateway_serial
            for reading in payload.readings:
                register, value = reading.register, reading.milliwatt_hours
                if not reading.usable or value is None or register not in _ENERGY:
                    continue
                if reading.begins:
                    begins = self._begins.setdefault(transaction_id, {})
                    begins[register] = (serial, value)
                    while len(self._begins) > REMEMBERED_BEGINS:
                        del self._begins[next(iter(self._begins))]
                elif reading.ends and register in self._begins.get(transaction_id, {}):
                    begin_serial, begin = self._begins[transaction_id][register]
                    where = f"transaction {quoted(transaction_id, 40)}"
                    if serial != begin_serial:
                        text = f"{where} began at meter {quoted(begin_serial, 40)} and ended at {quoted(serial, 40)}"
                        notices.append(("charger.signed_session", text))
                    elif value < begin:
                        text = f"{where}: the signed {register.value} ends at {value} milliwatt-hours, below {begin}"
                        notices.append(("charger.signed_session", text))
        return notices


def _not_good(payload: Payload) -> list[tuple[str, str]]:
    """What the meter says of itself."""
    states = {(r.status, r.error_flags) for r in payload.readings if r.value is not None and not r.usable}
    return [
        (
            "charger.meter_status",
            f"its meter does not stand by a value: OCMF status {status!a}, error flags {flags!a}",
        )
        for status, flags in sorted(states)[:1]
    ]
