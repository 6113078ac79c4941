"""A run: faults of every kind in the order of a seed, a judgement after each, and what came of it all.

Faults come in rows, each over a gateway and a platform of its own: a row can be repeated alone by its seed, and each
begins with a start from nothing.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hil_tests.faults import broker, channels, cloning, disk, kills, merging, outside, restoring, rotation, storage, two
from hil_tests.faults.judge import LOSSES, Violation
from hil_tests.faults.setting import world
from hil_tests.faults.world import Carrier, Sweep, Tokens, World, tokens

Strike = Callable[[World, random.Random], Awaitable[str]]
"""Does the harm and undoes it, with the gateway running or starting again; says what exactly was done."""

KINDS: Final[Mapping[str, Strike]] = {
    "kill": kills.at_random,
    "kill_at_commit_of_start": kills.at_commit_of_a_start,
    "kill_at_commit_of_first_start": kills.at_commit_of_a_first_start,
    "kill_at_login": kills.at_login,
    "kill_while_ending": kills.while_ending,
    "kill_at_commit": kills.at_commit_while_running,
    "kill_in_write": kills.in_a_write,
    "power_cut": kills.power_cut,
    "disk_full": storage.full,
    "disk_full_at_start": storage.full_at_start,
    "eio_write": storage.failing_writes,
    "eio_sync": storage.failing_syncs,
    "eio_read": storage.failing_reads,
    "kill_while_disk_fails": storage.killed_while_failing,
    "token_loss": outside.token_loss,
    "clock_forward": outside.clock_forward,
    "clock_back": outside.clock_back,
    "link_cut": outside.link_cut,
    "half_open": outside.half_open,
    "frozen_platform": outside.frozen_platform,
    "mixed_acknowledgements": outside.mixed_acknowledgements,
    "no_acknowledgements": outside.no_acknowledgements,
    "platform_killed": outside.platform_killed,
    "platform_loses_last_second": outside.platform_loses_its_last_second,
    "backup_put_back": restoring.backup_put_back,
    "cloned_card": cloning.cloned,
    "two_at_once": two.two_at_once,
}
MQTT_KINDS: Final[Mapping[str, Strike]] = {
    "mqtt_broker_killed": broker.killed,
    "mqtt_broker_frozen": broker.frozen,
    "mqtt_session_lost": broker.session_lost,
    "mqtt_kill": kills.at_random,
    "mqtt_kill_at_commit": kills.at_commit_while_running,
    "mqtt_power_cut": kills.power_cut,
    "mqtt_token_loss": outside.token_loss,
    "mqtt_link_cut": outside.link_cut,
    "mqtt_half_open": outside.half_open,
    "mqtt_frozen_platform": outside.frozen_platform,
    "mqtt_mixed_acknowledgements": outside.mixed_acknowledgements,
    "mqtt_no_acknowledgements": outside.no_acknowledgements,
    "mqtt_platform_killed": outside.platform_killed,
    "mqtt_platform_loses_last_second": outside.platform_loses_its_last_second,
}
"""The same gateway and platform with a broker between them: other rows, for a row has one carrier."""
CHANNEL_KINDS: Final[Mapping[str, Strike]] = {
    "channel_kill_at_stage": channels.killed_at_a_stage,
    "channel_replay": channels.messages_replayed,
    "channel_platform_ahead": channels.platform_ahead,
    "channel_cloned_card": cloning.cloned,
}
"""Of a gateway with a settled device."""
MERGING_KINDS: Final[Mapping[str, Strike]] = {
    "thinning_kill": merging.killed,
    "thinning_kill_at_commit": merging.killed_at_a_commit,
    "thinning_disk_full": merging.disk_full_at_a_commit,
    "thinning_power_cut": merging.power_cut,
}
"""Of a gateway without room for its evidence."""
ROTATION_KINDS: Final[Mapping[str, Strike]] = {
    "rotation_kill": rotation.killed,
    "rotation_kill_at_commit": rotation.killed_at_a_commit,
    "rotation_token_loss": rotation.token_away,
}
"""Of a gateway with a history: its evidence key changes."""
OF_CARRIER: Final = {
    Carrier.GRPC: KINDS,
    Carrier.MQTT: MQTT_KINDS,
    Carrier.SETTLING: CHANNEL_KINDS,
    Carrier.MERGING: MERGING_KINDS,
    Carrier.ROTATING: ROTATION_KINDS,
}
ALL_KINDS: Final[Mapping[str, Strike]] = {
    name: strike for kinds in OF_CARRIER.values() for name, strike in kinds.items()
}
OFTEN: Final = (
    "kill", "kill_at_commit_of_start", "kill_at_commit_of_first_start", "kill_at_commit", "kill_in_write", "power_cut",
    "two_at_once", "thinning_kill_at_commit", "rotation_kill_at_commit",
)  # fmt: skip
"""Come three times as often as the others: they are what a box at a site meets most, and where order matters most."""
ROW: Final = 40
"""Faults over one gateway."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """Of a run."""

    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[str, Violation]] = field(default_factory=list)
    """With the fault after which each was found."""
    readings: int = 0
    """Statements whose put had returned."""
    batches: int = 0
    seconds: float = 0.0

    @property
    def faults(self) -> int:
        return self.counts.total()

    @property
    def readings_lost(self) -> int:
        return sum(violation.rule in LOSSES for _, violation in self.violations)

    def as_json(self) -> dict[str, object]:
        return {
            "faults": self.faults,
            "readings_lost": self.readings_lost,
            "violations": len(self.violations),
            "statements_promised": self.readings,
            "batches_sealed": self.batches,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "kinds": dict(sorted(self.counts.items())),
            "found": [f"{where}: {violation}" for where, violation in self.violations],
        }


def plan(count: int, seed: int) -> list[str]:
    """The kinds of a run, in order: every kind as early as the count allows, the frequent ones again and again."""
    chance = random.Random(seed)
    planned: list[str] = []
    while len(planned) < count:
        some = [*ALL_KINDS]
        if planned:
            some += OFTEN * 2
        chance.shuffle(some)
        planned += some
    return planned[:count]


async def run(
    folder: Path,
    *,
    count: int,
    seed: int,
    token: str,
    say: Say,
    kinds: Sequence[str] | None = None,
    encrypted: bool = False,
) -> Outcome:
    """A whole run in a scratch folder. `kinds`: these faults, in this order, and not those of the seed.

    `encrypted`: every store is.

    Raises DiskError, StageError, SoftHsmError, InitError, RuntimeError when the harness cannot work.
    """
    outcome = Outcome(seed)
    began_s = time.monotonic()
    shim = disk.build(folder)
    planned = plan(count, seed) if kinds is None else list(kinds)
    sweep = Sweep()
    async with tokens(token, _folder(folder, "token")) as held:
        if encrypted:
            held.encrypt_stores()
        for carrier in Carrier:
            left = [kind for kind in planned if kind in OF_CARRIER[carrier]]
            while left:
                first = outcome.faults
                at = _folder(folder, f"row-{first}")
                await _row(at, held, shim, carrier, left[:ROW], sweep, outcome, say)
                left = left[outcome.faults - first :]
    outcome.seconds = time.monotonic() - began_s
    return outcome


def _folder(within: Path, name: str) -> Path:
    folder = within / name
    (folder / "state").mkdir(parents=True, mode=0o700)
    return folder


async def _row(
    folder: Path,
    held: Tokens,
    shim: Path,
    carrier: Carrier,
    kinds: Sequence[str],
    sweep: Sweep,
    outcome: Outcome,
    say: Say,
) -> None:
    """Some faults over one gateway, up to the first that does harm.

    A gateway that was harmed once would show the same harm after every later fault.
    """
    first = outcome.faults
    async with world(folder, held, shim, outcome.seed + first, carrier) as at:
        at.sweep = sweep
        await _check(at, f"{first} start", outcome, say)
        for number, kind in enumerate(kinds, start=first + 1):
            outcome.counts[kind] += 1
            # A stream of its own for each fault: one that draws more does not move those after it.
            detail = await ALL_KINDS[kind](at, random.Random(f"{outcome.seed}/{number}"))
            if not await _check(at, f"{number} {kind} ({detail})", outcome, say):
                break
        else:
            await at.everything_arrives()
            await _check(at, f"{outcome.faults} end of a row", outcome, say, complete=True)
        outcome.readings += at.told_before + len(at.told.puts)
        outcome.batches += at.sealed_before + len(at.told.sealed)


async def _check(at: World, where: str, outcome: Outcome, say: Say, *, complete: bool = False) -> bool:
    """Whether the gateway gets on, and nothing is wrong."""
    began_s = time.monotonic()
    stuck = await at.gets_on()
    found = [*([stuck] if stuck is not None else []), *at.found, *await at.judged(complete=complete)]
    at.found.clear()
    outcome.violations += [(where, violation) for violation in found]
    say(f"{where}: got on in {time.monotonic() - began_s:.1f} s" + "".join(f"\n    {each}" for each in found))
    return not found
