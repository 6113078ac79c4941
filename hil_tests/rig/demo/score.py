"""Judges a run from the outside: the exported evidence, the platform's books, and what the simulated meters really did.

Pure: values in, figures out. Nothing that the agent says about itself counts, except the evidence that it signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.evidence.bundle import read_bundle
from agent.evidence.verify import TrustedKey, Verifier, first_break
from agent.identity.did import key_of_did
from agent.measure.reading import Quality, Reading

TOLERANCE_PERCENT: Final = 5.0
TOLERANCE_W: Final = 100.0
SHARE_OBEYED: Final = 0.95
END_MARGIN_S: Final = 0.5
"""The last look of a command may already see its end: clocks of site and platform are one, their ticks are not."""
REGISTER_SLACK_WH: Final = 1.0
ENDED_WELL: Final = frozenset({"COMPLETED", "SUPERSEDED"})
ENDED: Final = ENDED_WELL | {"EXPIRED", "FAILED", "REJECTED"}
"""Final states of a command: exactly one of them belongs to each."""


class ScoreError(Exception):
    """A run cannot be judged. Says what is missing."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One look at what really is."""

    at_s: float
    """Unix time."""
    grid_w: float
    power_w: Mapping[str, float]
    net_milliwatt_hours: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """A command as the platform's books have it."""

    command_id: str
    limit: bool
    """A cap on export at the connection; else a setpoint for the targets."""
    target_w: float
    """+ import, - export."""
    targets: tuple[str, ...]
    start_s: float
    end_s: float
    final_states: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Obedience:
    """What the meters say about one command."""

    command_id: str
    seconds: int
    """Looks that count, in seconds: after the ramp, while in force."""
    share: float
    tracking_error_percent: float
    offline_seconds: int
    """Obeyed while the link was cut."""

    @property
    def obeyed(self) -> bool:
        return self.seconds > 0 and self.share >= SHARE_OBEYED


@dataclass(frozen=True, slots=True)
class Evidence:
    """The agent's evidence, verified under the gateway's own name."""

    readings: Mapping[str, Sequence[tuple[Reading, bytes]]]
    """By device, in order of sequence."""
    batches: int
    chain_break: str


def read_truth(path: Path) -> list[Truth]:
    """The truth file of the site. Raises ScoreError."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        devices = said["devices"]
        rows.append(
            Truth(
                at_s=said["t"],
                grid_w=said["grid"]["power_w"],
                power_w={name: device["power_w"] for name, device in devices.items()},
                net_milliwatt_hours={
                    name: device["import_milliwatt_hours"] - device["export_milliwatt_hours"]
                    for name, device in devices.items()
                },
            )
        )
    if not rows:
        raise ScoreError(f"{path}: the site recorded nothing")
    return rows


def read_evidence(path: Path, gateway_id: str) -> Evidence:
    """Verify a bundle whole. Raises EvidenceError when anything in it does not verify."""
    readings: dict[str, list[tuple[Reading, bytes]]] = {}
    verifier = Verifier([TrustedKey(gateway_id, key_of_did(gateway_id))])
    with path.open("rb") as file:
        _, encoded = read_bundle(file)
        batches = [verifier.verify_batch(batch) for batch in encoded]
    for batch in batches:
        for verified in batch.statements:
            if isinstance(verified.statement, Reading):
                readings.setdefault(verified.statement.device_id, []).append((verified.statement, verified.encoded))
    broken = first_break(batches)
    return Evidence(readings, len(batches), "" if broken is None else broken.why)


def ordered(commands: Iterable[Mapping[str, object]]) -> list[Ordered]:
    """The commands of the platform's books."""
    found = []
    for command in commands:
        receipts = command["receipts"]
        assert isinstance(receipts, list)
        power_w = _float(command["power_w"])
        targets = command["targets"]
        assert isinstance(targets, list)
        found.append(
            Ordered(
                command_id=str(command["command_id"]),
                limit=command["mode"] == "EXPORT_LIMIT",
                target_w=power_w if command["type"] == "CHARGE" else -power_w,
                targets=tuple(str(target) for target in targets),
                start_s=_float(command["start_us"]) / 1e6,
                end_s=_float(command["end_us"]) / 1e6,
                final_states=tuple(str(receipt["state"]) for receipt in receipts if receipt["state"] in ENDED),
            )
        )
    return found


def judge(command: Ordered, truth: Sequence[Truth], *, ramp_s: float, cuts: Sequence[tuple[float, float]]) -> Obedience:
    """Obedience by metered power: within max(5 %, 100 W) of the target after the ramp; of a limit, not beyond it."""
    looks = [t for t in truth if command.start_s + ramp_s <= t.at_s <= command.end_s - END_MARGIN_S]
    if not looks:
        return Obedience(
            command_id=command.command_id, seconds=0, share=0.0, tracking_error_percent=100.0, offline_seconds=0
        )
    tolerance_w = max(abs(command.target_w) * TOLERANCE_PERCENT / 100, TOLERANCE_W)
    errors = [_error_w(command, look) for look in looks]
    within = [error <= tolerance_w for error in errors]
    offline = sum(
        good and any(begin <= look.at_s < end for begin, end in cuts) for look, good in zip(looks, within, strict=True)
    )
    duration_s = command.end_s - END_MARGIN_S - command.start_s - ramp_s
    per_look_s = duration_s / len(looks)
    scale_w = max(abs(command.target_w), TOLERANCE_W)
    return Obedience(
        command_id=command.command_id,
        seconds=round(duration_s),
        share=sum(within) / len(within),
        tracking_error_percent=100 * sum(errors) / len(errors) / scale_w,
        offline_seconds=round(offline * per_look_s),
    )


def _error_w(command: Ordered, look: Truth) -> float:
    if command.limit:
        return max(0.0, command.target_w - look.grid_w)
    power_w = sum(look.power_w[target] for target in command.targets) if command.targets else look.grid_w
    return abs(power_w - command.target_w)


def missing_sequences(readings: Sequence[tuple[Reading, bytes]]) -> int:
    """Holes in the sequence of one device, and whatever is twice."""
    sequences = [reading.sequence for reading, _ in readings]
    if not sequences:
        return 0
    return (max(sequences) - len(set(sequences))) + (len(sequences) - len(set(sequences)))


def digest_of(readings: Sequence[tuple[Reading, bytes]]) -> str:
    """As in the platform's books: SHA-256 over the concatenated SHA-256 of the statements in order."""
    in_order = sorted(readings, key=lambda pair: (pair[0].incarnation, pair[0].sequence))
    whole = hashlib.sha256()
    for _, encoded in in_order:
        whole.update(hashlib.sha256(encoded).digest())
    return whole.hexdigest()


def energy_error_wh(readings: Sequence[tuple[Reading, bytes]], device_id: str, truth: Sequence[Truth]) -> float:
    """How far the sum of the readings is from what the simulated meter counted between the first and the last one, Wh.

    The meter is known every half second; how far it can have moved within a sample is allowed for.
    """
    if len(readings) < 2:
        return 0.0
    first, last = readings[0][0], readings[-1][0]
    said_wh = sum(reading.net_energy_wh for reading, _ in readings[1:])
    begin, begin_slack = _register_at(truth, device_id, first.timestamp_us / 1e6)
    end, end_slack = _register_at(truth, device_id, last.timestamp_us / 1e6)
    return max(0.0, abs(said_wh - (end - begin) / 1000) - begin_slack - end_slack)


def _register_at(truth: Sequence[Truth], device_id: str, at_s: float) -> tuple[float, float]:
    """Net register in milliwatt-hours at a time, interpolated, and how far it may be off, Wh."""
    after = next((place for place, look in enumerate(truth) if look.at_s >= at_s), len(truth) - 1)
    low, high = truth[max(after - 1, 0)], truth[after]
    span_s = high.at_s - low.at_s
    part = min(1.0, max(0.0, (at_s - low.at_s) / span_s)) if span_s else 0.0
    a, b = low.net_milliwatt_hours[device_id], high.net_milliwatt_hours[device_id]
    fastest_w = max(abs(low.power_w[device_id]), abs(high.power_w[device_id]))
    # Simulator step, interpolation within a look, and the way of a sample from the register to its time stamp.
    return a + part * (b - a), fastest_w * 0.5 / 3600


def gaps(readings: Sequence[tuple[Reading, bytes]]) -> int:
    """Readings that say of themselves that others are missing before them."""
    return sum(bool(reading.quality & Quality.AFTER_GAP) for reading, _ in readings)


def _float(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What happened around the agent."""

    gateway_id: str
    commands_sent: int
    cuts: tuple[tuple[float, float], ...]
    ramp_s: float
    window_s: int
    seconds: float
    shrunk: bool
    fresh_setup_seconds: float | None
    gateway_exit_code: int
    broken_off_s: float | None = None
    """Unix time at which a person ended the run; None: it ran to its end."""

    def left_unfinished(self, command: Ordered) -> bool:
        """Whether the end of the run kept it from its own: it is judged as far as it came."""
        return self.broken_off_s is not None and command.end_s > self.broken_off_s and not command.final_states

    def cut_short(self, command: Ordered) -> Ordered:
        """The command, ended where the run ended if that came first."""
        if self.broken_off_s is None or not self.left_unfinished(command):
            return command
        return replace(command, end_s=self.broken_off_s)


def summarise(run: Run, evidence: Evidence, books: Mapping[str, object], truth: Sequence[Truth]) -> dict[str, object]:
    """The figures of a run, and `ok`: nothing lost, rejected or disobeyed, and both sides signed."""
    gateways = books["gateways"]
    assert isinstance(gateways, dict)
    page = gateways[run.gateway_id]
    commands = ordered(page["commands"])
    obediences = [judge(run.cut_short(command), truth, ramp_s=run.ramp_s, cuts=run.cuts) for command in commands]
    finals = {command.command_id: command.final_states for command in commands}
    unfinished = {command.command_id for command in commands if run.left_unfinished(command)}
    lost = 0
    mismatch = {}
    # A device of which nothing is known on one side, or on neither, has lost everything.
    for device_id in sorted({*truth[0].net_milliwatt_hours, *evidence.readings, *page["devices"]}):
        readings = evidence.readings.get(device_id, ())
        record = page["devices"].get(device_id, {"readings": 0, "digest": digest_of(())})
        lost += missing_sequences(readings) if readings else 1
        lost += abs(len(readings) - record["readings"])
        if record["readings"] == len(readings) and record["digest"] != digest_of(readings):
            # As many, and not the same: every one of them is in doubt.
            lost += len(readings)
        error_wh = energy_error_wh(readings, device_id, truth)
        if error_wh > REGISTER_SLACK_WH:
            mismatch[device_id] = round(error_wh, 2)
            lost += 1
    channels = page["channels"].values()
    weights = sum(o.seconds for o in obediences)
    sealed = sum(len(readings) for readings in evidence.readings.values())
    # Nothing speaks against a command that had no time to be judged.
    obeyed_so_far = sum(o.command_id in unfinished and (o.obeyed or not o.seconds) for o in obediences)
    obeyed = sum(
        o.obeyed and len(finals[o.command_id]) == 1 and finals[o.command_id][0] in ENDED_WELL for o in obediences
    )
    figures: dict[str, object] = {
        "readings_sealed": sealed,
        "readings_acknowledged": sum(record["readings"] for record in page["devices"].values()),
        "readings_lost": lost,
        "receipts_verified": page["receipts_verified"],
        "receipts_rejected": page["receipts_rejected"] + page["batches_rejected"],
        "commands_received": sum(bool(command["receipts"]) for command in page["commands"]),
        "commands_sent": run.commands_sent,
        "commands_obeyed": obeyed,
        "commands_unfinished": len(unfinished),
        "command_seconds_offline": sum(o.offline_seconds for o in obediences),
        "tracking_error_percent": round(
            sum(o.tracking_error_percent * o.seconds for o in obediences) / weights if weights else 100.0, 3
        )
        if weights or run.broken_off_s is None
        else None,
        "windows_countersigned": _countersigned_windows(page),
        "channel_states_countersigned": sum(channel["countersigned"] for channel in channels),
        "channel_conflicts": sum(channel["forks"] for channel in channels) + len(page["conflicts"]),
        "fresh_setup_seconds": run.fresh_setup_seconds,
        "batches_sealed": evidence.batches,
        "chain_break": evidence.chain_break or None,
        "energy_mismatch_wh": mismatch,
        "readings_after_gap": sum(gaps(readings) for readings in evidence.readings.values()),
        "commands": [
            {
                "command_id": o.command_id,
                "obeyed": o.obeyed,
                "judged_seconds": o.seconds,
                "share_within_tolerance": round(o.share, 4),
                "tracking_error_percent": round(o.tracking_error_percent, 3),
                "obeyed_seconds_offline": o.offline_seconds,
                "final_receipts": list(finals[o.command_id]),
            }
            for o in obediences
        ],
        "seconds": run.seconds,
        "ramp_seconds": run.ramp_s,
        "window_seconds": run.window_s,
        "times_shrunk": run.shrunk,
        "broken_off": run.broken_off_s is not None,
        "gateway_exit_code": run.gateway_exit_code,
    }
    figures["ok"] = (
        lost == 0
        and sealed > 0
        and figures["receipts_rejected"] == 0
        and figures["channel_conflicts"] == 0
        and figures["commands_received"] == run.commands_sent == obeyed + obeyed_so_far
        and (_countersigned_windows(page) >= 1 or run.broken_off_s is not None)
        and not evidence.chain_break
        and run.gateway_exit_code == 0
    )
    return figures


def _countersigned_windows(page: Mapping[str, Mapping[str, Any]]) -> int:
    """Windows that are within a channel state that both sides signed."""
    count = 0
    for device_id, windows in page["windows"].items():
        newest = page["channels"].get(device_id, {}).get("newest")
        if newest is not None:
            count += sum(window[1] <= newest["window_end_us"] for window in windows)
    return count
