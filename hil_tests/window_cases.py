"""The cases behind proto/vectors/channels/windows.json: readings of a device, and what windows make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from agent.evidence import merkle, statements
from agent.evidence.statements import SettlementWindow
from agent.measure.reading import Quality, Reading
from hil_tests import evidence_cases as made
from hil_tests.channel_cases import TERMS, WINDOW_US
from hil_tests.evidence_cases import Json

S: Final = 1_000_000
TOLERANCE_US: Final = 2 * S
START_US: Final = made.START_US // WINDOW_US * WINDOW_US


def reading(sequence: int, second: int, imported: int | None, exported: int | None = 700, **changes: object) -> Reading:
    """Registers in milliwatt-hours; `second` after the start of the first window."""
    one = replace(
        made.reading(sequence), device_id=TERMS.device_id, timestamp_us=START_US + second * S, net_energy_wh=0,
        import_register_milliwatt_hours=imported, export_register_milliwatt_hours=exported, meter_epoch=1,
        quality=Quality.GOOD,
    )  # fmt: skip
    return replace(one, **changes)  # type: ignore[arg-type]  # by name


@dataclass(frozen=True)
class Said:
    """What a window says of its readings, written down by hand."""

    count: int
    import_wh: int
    export_wh: int = 0
    quality: Quality = Quality.GOOD
    epoch: int = 1


def _windows(readings: list[Reading], said: list[Said]) -> list[SettlementWindow]:
    """A first reading at the boundary itself ends the window before, which is the device's first."""
    windows, rest = [], readings
    if readings and readings[0].timestamp_us == START_US:
        windows.append(_window(-1, readings[:1], Said(1, 0, 0, Quality.ESTIMATED)))
        rest = readings[1:]
    for number, each in enumerate(said):
        windows.append(_window(number, rest[: each.count], each))
        rest = rest[each.count :]
    return windows


def _window(number: int, taken: list[Reading], said: Said) -> SettlementWindow:
    sequences: list[int | None] = [each.sequence for each in taken] or [None]
    return SettlementWindow(
        device_id=TERMS.device_id, incarnation=1, window_start_us=START_US + number * WINDOW_US,
        window_end_us=START_US + (number + 1) * WINDOW_US, revision=0, import_wh=said.import_wh,
        export_wh=said.export_wh, net_energy_wh=said.import_wh - said.export_wh, first_sequence=sequences[0],
        last_sequence=sequences[-1], reading_count=len(taken), readings_root=_root(taken), meter_epoch=said.epoch,
        quality=said.quality, command_hashes=(),
    )  # fmt: skip


def _root(readings: list[Reading]) -> bytes:
    return merkle.root([merkle.leaf_hash(statements.encode(each)) for each in readings])


def cases() -> Iterator[Json]:
    """From the first reading of the device on."""

    def one(name: str, readings: list[Reading], windows: list[SettlementWindow], *, valid: bool) -> Json:
        return {
            "name": name, "valid": valid, "tolerance_us": TOLERANCE_US,
            "readings": [statements.encode(each).hex() for each in readings],
            "windows": [statements.encode(each).hex() for each in windows],
        }  # fmt: skip

    begun, est, held = Quality.ESTIMATED, Quality.ESTIMATED, Quality.REGISTER_HELD
    day = [
        reading(1, 0, 5_000_999), reading(2, 450, 5_001_999), reading(3, 900, 5_003_000, 1_700),
        reading(4, 1_350, 5_003_999, 1_700), reading(5, 1_800, 5_004_000, 1_701),
    ]  # fmt: skip
    said = [Said(2, 3, 1), Said(2, 1)]
    good: list[tuple[str, list[Reading], list[Said]]] = [
        ("energy is the difference of the whole Wh at the boundaries", day, said),
        ("no reading near the first boundary", [reading(1, 100, 1_000), reading(2, 900, 3_000)],
         [Said(2, 2, 0, begun)]),
        ("a last reading far before the end", [*day[:2]], [Said(1, 1, 0, est)]),
        ("a window without readings, whose energy comes with the next",
         [day[0], reading(2, 900, 5_003_000), reading(3, 3_600, 5_007_000)],
         [Said(1, 3), Said(0, 0, 0, est), Said(0, 0, 0, est), Said(1, 4, 0, est)]),
        ("no reading at all", [], [Said(0, 0, 0, est, 0)]),
        ("missing sequences", [day[0], reading(7, 900, 5_003_000)], [Said(1, 3, 0, est)]),
        ("another meter", [day[0], reading(2, 450, 9_000, meter_epoch=2, quality=Quality.EPOCH_START),
                           reading(3, 900, 12_000, meter_epoch=2)],
         [Said(2, 3, 0, Quality.EPOCH_START | est, 2)]),
        ("on an island", [day[0], reading(2, 450, 5_005_000, quality=Quality.ISLANDED), reading(3, 900, 5_006_000)],
         [Said(2, 1, 0, Quality.ISLANDED)]),
        ("a register that falls", [day[0], reading(2, 450, 4_000_000), reading(3, 900, 5_002_000)],
         [Said(2, 2, 0, held | est)]),
        ("readings without registers",
         [day[0], reading(2, 450, None, None, quality=Quality.NO_REGISTER), reading(3, 900, 5_002_000)],
         [Said(2, 2, 0, Quality.NO_REGISTER)]),
        ("one register alone", [reading(1, 0, 1_000, None), reading(2, 900, 3_000, None)], [Said(1, 2)]),
        ("late readings go into the window that is open",
         [day[0], reading(2, 900, 5_003_000), reading(3, 700, 5_003_500, quality=Quality.QUEUED),
          reading(4, 1_800, 5_006_000)],
         [Said(2, 3, 0, Quality.QUEUED), Said(1, 3)]),
        ("a device's clock ahead keeps nothing from the window",
         [day[0], reading(2, 9_000, 5_001_999, quality=Quality.DEVICE_TIME), reading(3, 900, 5_003_000)],
         [Said(2, 3, 0, Quality.DEVICE_TIME)]),
    ]  # fmt: skip
    for name, readings, each in good:
        yield one(name, readings, _windows(readings, each), valid=True)
    begin, first, second = _windows(day, said)

    def changed(**changes: object) -> list[SettlementWindow]:
        return [begin, replace(first, **changes), second]  # type: ignore[arg-type]  # by name

    wrong: list[tuple[str, list[SettlementWindow]]] = [
        ("one Wh more", changed(import_wh=4, net_energy_wh=3)),
        ("one Wh less of export", changed(export_wh=0, net_energy_wh=3)),
        ("another root", changed(readings_root=_root(day[1:2]))),
        ("another first sequence", changed(first_sequence=1)),
        ("another last sequence", changed(last_sequence=2)),
        ("estimated, and is not", changed(quality=Quality.ESTIMATED)),
        ("another meter epoch", changed(meter_epoch=2)),
        ("one reading too few", _windows(day, [Said(1, 1, 0, est), Said(3, 3, 1)])),
        ("one reading too many", _windows(day, [Said(3, 3, 1), Said(1, 1)])),
        ("a reading in none", _windows(day, [Said(2, 3, 1)])),
        ("time between two", [begin, first, replace(second, window_start_us=second.window_start_us + S)]),
    ]
    for name, windows in wrong:
        yield one(name, day, windows, valid=False)
    bent: list[tuple[str, list[Reading], list[Said]]] = [
        ("a step to another meter that is counted", good[6][1], [Said(2, 5, 0, Quality.EPOCH_START | est, 2)]),
        ("energy of an island that is settled", good[7][1], [Said(2, 6, 0, Quality.ISLANDED)]),
        ("missing sequences that are not said", good[5][1], [Said(1, 3)]),
        ("flags of its readings that it does not have", good[7][1], [Said(2, 1)]),
        ("a fall that is not said", good[8][1], [Said(2, 2)]),
        ("a missing boundary that is not said", good[1][1], [Said(2, 2)]),
    ]
    for name, readings, each in bent:
        yield one(name, readings, _windows(readings, each), valid=False)
