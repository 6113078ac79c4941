"""A verifier of devices' streams written from proto/EVIDENCE.md section 17 alone: it reads the wire itself."""

from __future__ import annotations

from tests.agent.evidence import independent
from tests.agent.evidence.independent import refuse_unless

READING = 1
SEALING = 0


def wire(encoded: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message by number: varints as unsigned numbers, and byte strings."""
    fields: dict[int, int | bytes] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            octet = encoded[at]
            at += 1
            value |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return value

    while at < len(encoded):
        key = varint()
        refuse_unless(key & 7 in (0, 2), "wire type")
        if key & 7 == 0:
            fields[key >> 3] = varint()
            continue
        length = varint()
        fields[key >> 3] = encoded[at : at + length]
        at += length
    refuse_unless(at == len(encoded), "cut")
    return fields


def signed(value: int | bytes | None) -> int:
    """An int64; absent is 0."""
    assert not isinstance(value, bytes)
    return 0 if value is None else value - (1 << 64) if value >= 1 << 63 else value


def telemetry(encoded: bytes, verifier: independent.Verifier) -> int:
    """The index of the statement that a message brings."""
    fields = wire(encoded)
    receipt, statement = fields.get(5, b""), fields.get(6, b"")
    assert isinstance(receipt, bytes)
    assert isinstance(statement, bytes)
    index, _ = verifier.receipt(receipt, statement)
    said = independent.strict(statement)
    kind = said[0]
    energy_wh, sequence = signed(fields.get(3)), signed(fields.get(7))
    if kind != READING:
        refuse_unless(kind != SEALING and energy_wh == 0 and sequence == 0, "a point with energy, or a sealing")
        return index
    device_id, _, _, own_sequence, timestamp_us, own_energy_wh = said[2:8]
    permille = said[13]
    percent = fields.get(4)
    refuse_unless(fields.get(1, b"") == device_id.encode(), "device")
    refuse_unless(signed(fields.get(2)) == timestamp_us, "time")
    refuse_unless((energy_wh, sequence) == (own_energy_wh, own_sequence), "energy or sequence")
    refuse_unless(percent == (None if permille is None else permille // 10), "state of charge")
    return index
