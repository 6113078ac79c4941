"""What is reckoned about schedules, as it is kept over restarts: the sums and the open quarters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.control.command import MAX_TIME_US, Price
from agent.control.deviation import DeviationBook, Quarter, Sums
from agent.control.errors import RestoreError
from agent.control.tally import Register
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError


def encode_deviations(book: DeviationBook) -> bytes:
    """For the store: the sums and the open quarters; what is closed stands in the evidence."""
    opened: list[cbor.Value] = []
    for _, quarter in sorted(book.open.items()):
        price: cbor.Value = None if quarter.price is None else [quarter.price.micro_per_kwh, quarter.price.currency]
        opened.append([
            quarter.start_us, quarter.schedule_hash, quarter.seen_us, quarter.power_w,
            quarter.scheduled_milliwatt_seconds,
            [[name, r.meter_id, r.net_milliwatt_hours] for name, r in sorted(quarter.first.items())],
            list(quarter.devices), quarter.commanded, quarter.reason[:400], price,
            quarter.from_us, [[name, read_us] for name, read_us in sorted(quarter.first_us.items())],
        ])  # fmt: skip
    sums: list[cbor.Value] = [[currency, micro] for currency, micro in sorted(book.penalties_micro.items())]
    own: list[cbor.Value] = [
        [key, one.quarters, one.under_wh, one.over_wh] for key, one in sorted(book.by_schedule.items())
    ]
    return cbor.encode([3, book.quarters, book.under_wh, book.over_wh, sums, opened, own])


def decode_deviations(note: bytes) -> DeviationBook:
    """A stored book. Raises RestoreError."""
    try:
        match cbor.decode(note, what="deviations note"):
            case [1, int(quarters), int(under_wh), int(over_wh), list(sums), one]:  # by a version before this one
                opened: list[cbor.Value] = [] if one is None else [one]
                own: list[cbor.Value] = []
            case [2 | 3, int(quarters), int(under_wh), int(over_wh), list(sums), list(opened), list(own)]:
                pass
            case _:
                raise RestoreError("deviations note: not laid out as version 3")
    except EvidenceError as error:
        raise RestoreError(f"deviations note: {error}") from error
    found = [_quarter(value) for value in opened]
    return DeviationBook(
        open={quarter.schedule_hash: quarter for quarter in found},
        under_wh=under_wh,
        over_wh=over_wh,
        quarters=quarters,
        penalties_micro=_sums(sums),
        by_schedule=dict(_own(value) for value in own),
    )


def _own(value: cbor.Value) -> tuple[bytes, Sums]:
    match value:
        case [bytes(key), int(quarters), int(under_wh), int(over_wh)]:
            return key, Sums(quarters=quarters, under_wh=under_wh, over_wh=over_wh)
    raise RestoreError("deviations note: a schedule's sums are not laid out as version 3")


def _sums(items: Sequence[cbor.Value]) -> dict[str, int]:
    found = {}
    for item in items:
        match item:
            case [str(currency), int(micro)]:
                found[currency] = micro
            case _:
                raise RestoreError("deviations note: a sum is not laid out as version 3")
    return found


def _quarter(value: cbor.Value) -> Quarter:
    match value:
        case [
            int(start_us), bytes(schedule_hash), int(seen_us), int(power_w), int(scheduled), list(first),
            list(devices), bool(commanded), str(reason), ([int(), str()] | None) as price, *times,
        ] if 0 <= start_us < MAX_TIME_US:  # fmt: skip
            registers = {}
            for item in first:
                match item:
                    case [str(name), str(meter_id), int(net)]:
                        registers[name] = Register(meter_id, net)
                    case _:
                        raise RestoreError("deviations note: a register is not laid out as version 3")
            from_us, first_us = _times(times, start_us, registers)
            return Quarter(
                start_us=start_us,
                schedule_hash=schedule_hash,
                seen_us=seen_us,
                power_w=power_w,
                scheduled_milliwatt_seconds=scheduled,
                first=registers,
                from_us=from_us,
                first_us=first_us,
                devices=tuple(str(name) for name in devices),
                commanded=commanded,
                reason=reason,
                price=None if price is None else Price(int(str(price[0])), str(price[1])),
            )
    raise RestoreError("deviations note: an open quarter is not laid out as version 3")


def _times(times: Sequence[cbor.Value], start_us: int, names: Iterable[str]) -> tuple[int, dict[str, int]]:
    """From when it is reckoned with, and when its first registers were read; versions before this one told neither."""
    match times:
        case []:
            return start_us, dict.fromkeys(names, start_us)
        case [int(from_us), list(read)]:
            found = {}
            for item in read:
                match item:
                    case [str(name), int(read_us)] if 0 <= read_us < MAX_TIME_US:
                        found[name] = read_us
                    case _:
                        raise RestoreError("deviations note: a time is not laid out as version 3")
            if found.keys() == set(names):
                return from_us, found
    raise RestoreError("deviations note: the times of a quarter are not laid out as version 3")
