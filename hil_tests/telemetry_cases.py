"""The cases of proto/vectors/evidence/telemetry.json: messages of devices' streams, and what was signed of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agent.evidence import batch, statements
from agent.measure.reading import Reading
from agent.uplink.telemetry import point_of, stand_of, telemetry_of
from hil_tests import evidence_cases as made
from hil_tests.evidence_cases import Case
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

SEALED: Final = made.make_batch([statements.encode(each) for each in made.one_of_each()])
RECEIPTS: Final = batch.receipts(SEALED, range(len(SEALED.leaves)))
SEALING, KNOWN, UNKNOWN, RECEIPT, WINDOW = range(5)
"""Leaves of the batch; of the two readings the first has a state of charge."""


def cases() -> Iterator[Case]:
    """Good ones first."""
    for name, index in (("a reading", KNOWN), ("a reading without a state of charge", UNKNOWN)):
        yield _case(name, None, reading(index), index)
    for name, index in (("a receipt of a command", RECEIPT), ("a settlement window", WINDOW)):
        yield _case(name, None, point(index), index)

    def wrong(name: str, error: str, telemetry: DeviceTelemetry, **changes: object) -> Case:
        for field, value in changes.items():
            if value is None:
                telemetry.ClearField(field)  # type: ignore[arg-type]  # fields are checked when it runs
            else:
                setattr(telemetry, field, value)
        return _case(name, error, telemetry)

    yield wrong("a reading with another energy", "proof", reading(), net_energy_wh=-2)
    yield wrong("a reading with the other sign", "proof", reading(), net_energy_wh=1)
    yield wrong("a reading of another time", "proof", reading(), timestamp_us=made.START_US)
    yield wrong("a reading of another device", "proof", reading(), device_id="battery-2")
    yield wrong("a reading of another sequence", "proof", reading(), sequence=2)
    yield wrong("a reading without its sequence", "proof", reading(), sequence=0)
    yield wrong("a state of charge that is rounded up", "proof", reading(), state_of_charge_percent=62)
    yield wrong("a state of charge that is left out", "proof", reading(), state_of_charge_percent=None)
    yield wrong("0 % in the place of an unknown one", "proof", reading(UNKNOWN), state_of_charge_percent=0)
    yield wrong("a reading with the receipt of another", "signature", reading(), signature=RECEIPTS[UNKNOWN])
    flipped = made.flip(SEALED.leaves[KNOWN], 40)
    yield wrong("a bit flipped in the statement", "signature", reading(), statement=flipped)
    yield wrong("a reading without its receipt", "malformed", reading(), signature=b"")
    yield wrong("a receipt of a command with energy", "proof", point(RECEIPT), net_energy_wh=-1)
    yield wrong("a receipt of a command with a sequence", "proof", point(RECEIPT), sequence=3)
    yield wrong("a window's energy as a reading's", "proof", point(WINDOW), net_energy_wh=-900, sequence=3)
    yield wrong("a sealing", "proof", point(SEALING))


def reading(index: int = KNOWN) -> DeviceTelemetry:
    """As the gateway sends it."""
    statement = statements.decode(SEALED.leaves[index])
    assert isinstance(statement, Reading)
    return telemetry_of(statement, SEALED.leaves[index], RECEIPTS[index])


def point(index: int) -> DeviceTelemetry:
    """A statement that is no reading, behind the reading with a state of charge."""
    before = statements.decode(SEALED.leaves[KNOWN])
    assert isinstance(before, Reading)
    return point_of(before.device_id, stand_of(before), 1, SEALED.leaves[index], RECEIPTS[index])


def _case(name: str, error: str | None, telemetry: DeviceTelemetry, index: int | None = None) -> Case:
    encoded = telemetry.SerializeToString(deterministic=True)
    return Case(name, error, {"telemetry": encoded}, {} if index is None else {"number": 1, "index": index})
