"""The judge: what must be true of a gateway's evidence after any fault, whatever the fault was.

Pure: what the store's callers were promised (`Told`), what the store holds, what the platform holds -> violations.
Knows nothing of faults, and trusts nothing that the gateway says of itself: every batch is verified under its key.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.evidence.errors import EvidenceError
from agent.evidence.kinds import Slot
from agent.evidence.statements import Alarm, Sealing, decode
from agent.evidence.verify import ChainPosition, TrustedKey, VerifiedBatch, Verifier, follow
from agent.identity.did import key_of_did
from agent.identity.history import PREFIX
from agent.measure.reading import Reading
from hil_tests.faults.source import moment_of
from hil_tests.faults.thinning_judge import Stood, read, wrong

SET_ASIDE: Final = "store.set_aside"
EXPLAIN: Final = frozenset({SET_ASIDE, "store.restored"})
"""Codes of the signed alarms that explain a new incarnation."""


class Rule(StrEnum):
    """What was broken."""

    LOST = "a statement whose put had returned is gone"
    UNSEALED = "a batch that was released (sealed, shown or sent) is gone, or another one has its number"
    EQUIVOCATION = "one identity has two contents"
    DOUBLED = "one reading was sealed twice"
    SEQUENCE_REUSED = "a sequence was given out again by another run"
    SEQUENCE_GAP = "a sequence is missing among a device's readings"
    BATCH_REUSED = "a batch number has two contents"
    CHAIN = "the chain of batches is broken"
    UNEXPLAINED = "a new incarnation that no signed statement explains"
    ENERGY = "the energy of the readings is not the difference of the registers"
    REGISTERS = "a reading's registers are none that the meter ever showed"
    UNVERIFIED = "a batch that does not verify"
    FORGOTTEN = "what was acknowledged is not at the platform"
    CONFLICT = "the platform was shown what contradicts itself"
    THINNED = "what stands for merged readings is not what they were"
    UNRESTORED = "a backup was put back, and the store went on as if nothing had been"
    COPIED = "a copy of the gateway met a platform that has newer of it, and told nobody"
    UNROTATED = "an order to change the key was not carried out"
    CHANNEL_FORK = "a channel's version has two states, or one was signed that must not be"
    CHANNEL_LOST = "a stage of a channel's state that was kept is gone"
    UNSETTLED = "the channel did not get on again after the fault"
    STUCK = "the gateway did not get on again after the fault"
    DIED = "the gateway ended by itself"


LOSSES: Final = frozenset({Rule.LOST})


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be."""

    rule: Rule
    what: str

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.rule.value}: {self.what}"


Place = tuple[int, int]
"""(incarnation, number) of a batch."""


@dataclass(frozen=True, slots=True)
class ChannelStage:
    """One stage of one state of a channel, as the store was given it."""

    incarnation: int
    version: int
    stage: int
    encoded: bytes

    @property
    def text(self) -> str:
        return f"state {self.incarnation}.{self.version}, stage {self.stage}"


@dataclass(slots=True)
class Told:
    """What the store promised to its callers: written down outside of it, when the call had returned."""

    puts: list[bytes] = field(default_factory=list)
    """Statements."""
    sealed: list[tuple[Place, bytes]] = field(default_factory=list)
    """With the root."""
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Highest number by incarnation."""
    shown: dict[tuple[int, int, bytes], None] = field(default_factory=dict)
    """Incarnation, number and root of batches whose readings somebody outside was shown, in order."""

    channel: list[ChannelStage] = field(default_factory=list)
    """Stages of the states of a settled device's channel."""

    given_up: set[bytes] = field(default_factory=set)
    """Statements that a person gave up with the store that a backup took the place of."""
    places_given_up: set[Place] = field(default_factory=set)

    def copy(self) -> Told:
        """What was told so far: taken before looking, for what is told later need not be found."""
        return Told(
            [*self.puts], [*self.sealed], {**self.acknowledged}, {**self.shown}, [*self.channel], {*self.given_up},
            {*self.places_given_up},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """What the store has."""

    batches: Sequence[bytes]
    """In wire form, in the order of sealing."""
    queued: Sequence[bytes]
    """Statements that wait to be sealed."""


@dataclass(frozen=True, slots=True)
class AtPlatform:
    """What the platform has."""

    batches: Sequence[bytes]
    """In wire form, in the order of arrival."""
    conflicts: Sequence[str]
    complete: bool
    """It has had time to get everything: at the end of a run."""


class Judge:
    """For one gateway. Remembers nothing between looks but which bytes it has verified already."""

    def __init__(self, gateway_id: str) -> None:
        keys = () if gateway_id.startswith(PREFIX) else (TrustedKey(gateway_id, key_of_did(gateway_id)),)
        self._verifier = Verifier(keys)
        self._verified: dict[bytes, VerifiedBatch] = {}

    def trust(self, keys: Iterable[TrustedKey]) -> None:
        """Keys of a gateway that has a history, each for its part of the chain: all is verified again."""
        self._verifier = Verifier(keys)
        self._verified.clear()

    def look(self, told: Told, held: Held, platform: AtPlatform) -> list[Violation]:
        """Everything that is wrong."""
        found: list[Violation] = []
        batches = self._verify(held.batches, "the store's", found)
        arrived = self._verify(platform.batches, "the platform's", found)
        found += _chain(batches)
        found += _numbers(batches, arrived, told)
        stood = Stood(batches)
        found += _promises(told, held, batches, arrived, stood)
        found += _readings(batches, arrived, stood)
        found += [Violation(Rule.THINNED, text) for text in wrong(stood, batches, _known(told, arrived))]
        found += [Violation(Rule.CONFLICT, text) for text in dict.fromkeys(platform.conflicts)]
        if platform.complete:
            there = {place_of(batch) for batch in arrived}
            found += [
                Violation(Rule.FORGOTTEN, _name(place))
                for place in map(place_of, batches)
                if place[1] <= told.acknowledged.get(place[0], 0) and place not in there
            ]
        return found

    def verified(self, encoded: bytes) -> VerifiedBatch:
        """Raises EvidenceError."""
        key = hashlib.sha256(encoded).digest()
        if key not in self._verified:
            self._verified[key] = self._verifier.verify_batch(encoded)
        return self._verified[key]

    def _verify(self, encoded: Iterable[bytes], whose: str, found: list[Violation]) -> list[VerifiedBatch]:
        good = []
        for each in encoded:
            try:
                good.append(self.verified(each))
            except EvidenceError as error:
                found.append(Violation(Rule.UNVERIFIED, f"{whose}: {error}"))
        return good


def _chain(batches: Sequence[VerifiedBatch]) -> list[Violation]:
    found = []
    at: ChainPosition | None = None
    explained: dict[int, bool] = {}
    for batch in batches:
        try:
            follow(at, batch)
        except EvidenceError as error:
            found.append(Violation(Rule.CHAIN, str(error)))
        at = batch.position
        incarnation = batch.identity.incarnation
        explained[incarnation] = explained.get(incarnation, False) or any(
            isinstance(each.statement, Alarm) and each.statement.code in EXPLAIN for each in batch.statements
        )
    for incarnation in sorted(explained)[1:]:
        if not explained[incarnation]:
            found.append(Violation(Rule.UNEXPLAINED, f"incarnation {incarnation}"))
    return found


def _numbers(batches: Sequence[VerifiedBatch], arrived: Sequence[VerifiedBatch], told: Told) -> list[Violation]:
    """One number, one content: in the store, at the platform, and among what was once called sealed."""
    found = []
    roots: dict[Place, bytes] = {}
    said = [*told.sealed, *_shown(told)]
    for place, root in [*((place_of(batch), batch.root) for batch in (*batches, *arrived)), *said]:
        if roots.setdefault(place, root) != root:
            found.append(Violation(Rule.BATCH_REUSED, _name(place)))
    counted = Counter(place for place, _ in told.sealed)
    found += [Violation(Rule.BATCH_REUSED, f"{_name(p)} was sealed {n} times") for p, n in counted.items() if n > 1]
    return found


def _promises(
    told: Told, held: Held, batches: Sequence[VerifiedBatch], arrived: Sequence[VerifiedBatch], stood: Stood
) -> list[Violation]:
    places = {place_of(batch): batch.root for batch in batches}
    kept = {each.encoded for batch in batches for each in batch.statements}
    kept.update(held.queued)
    # What the platform was sent while it was whole must be here too, or something must stand for it.
    sent = [
        each.encoded
        for batch in arrived
        if place_of(batch) not in told.places_given_up
        for each in batch.statements
        if not isinstance(each.statement, Sealing)
    ]
    found = [
        Violation(Rule.LOST, _about(each))
        for each in dict.fromkeys([*told.puts, *sent])
        if each not in kept and each not in told.given_up and not stood.stands_for(each)
    ]
    released = [*told.sealed, *_shown(told), *((place_of(batch), batch.root) for batch in arrived)]
    found += [
        Violation(Rule.UNSEALED, _name(place))
        for place, root in released
        if places.get(place) != root and place not in told.places_given_up
    ]
    return found


def _known(told: Told, arrived: Sequence[VerifiedBatch]) -> dict[tuple[str, int, int], bytes]:
    """Readings as they were before anything was merged, from outside of the store."""
    found: dict[tuple[str, int, int], bytes] = {}
    for encoded in [*told.puts, *(each.encoded for batch in arrived for each in batch.statements)]:
        reading = read(encoded)
        if isinstance(reading, Reading):
            found[reading.device_id, reading.incarnation, reading.sequence] = encoded
    return found


def _readings(batches: Sequence[VerifiedBatch], arrived: Sequence[VerifiedBatch], stood: Stood) -> list[Violation]:
    found: list[Violation] = []
    contents: dict[tuple[str, int, bytes, int], bytes] = {}
    boots: dict[tuple[str, int, int], bytes] = {}
    sealed: set[tuple[str, int, bytes, int]] = set()
    devices: dict[tuple[str, int], list[Reading]] = {}
    for ours, batch in [*((True, each) for each in batches), *((False, each) for each in arrived)]:
        for each in batch.statements:
            reading = each.statement
            if not isinstance(reading, Reading):
                continue
            name = f"{reading.device_id} {reading.incarnation}.{reading.sequence}"
            identity = (reading.device_id, reading.incarnation, reading.boot_id, reading.sequence)
            if contents.setdefault(identity, each.encoded) != each.encoded:
                found.append(Violation(Rule.EQUIVOCATION, name))
            elif ours and identity in sealed:
                found.append(Violation(Rule.DOUBLED, name))
            boot = boots.setdefault((reading.device_id, reading.incarnation, reading.sequence), reading.boot_id)
            if boot != reading.boot_id:
                found.append(Violation(Rule.SEQUENCE_REUSED, name))
            if ours:
                sealed.add(identity)
                devices.setdefault((reading.device_id, reading.incarnation), []).append(reading)
    last: dict[str, int] = {}
    by_sequence: dict[tuple[str, int], Reading] = {}
    for (device_id, incarnation), readings in sorted(devices.items(), key=lambda item: item[0]):
        slots = stood.slots(device_id, incarnation)
        sequences = {reading.sequence for reading in readings}
        for slot in slots:
            sequences |= {*range(slot.first_sequence, slot.last_sequence + 1)}
        # From 1, or, after a backup, on from where the store of before stood.
        first = 1 if min(sequences) != last.get(device_id, 0) + 1 else min(sequences)
        last[device_id] = max(sequences)
        if missing := sorted({*range(first, max(sequences) + 1)} - sequences):
            where = f"{device_id} of incarnation {incarnation}"
            found.append(Violation(Rule.SEQUENCE_GAP, f"{where}: {missing[:5]}, {len(missing)} in all"))
        found += _meter(device_id, incarnation, readings, slots)
        begins = min(readings, key=lambda each: each.sequence)
        if begins.sequence == first:
            before = by_sequence.get((device_id, first - 1))
            counted = 0 if before is None else _net_wh(begins) - _net_wh(before)
            if begins.net_energy_wh != counted:
                where = f"{device_id} of incarnation {incarnation}"
                text = f"{where} begins with {begins.net_energy_wh} Wh, {counted} are right"
                found.append(Violation(Rule.ENERGY, text))
        by_sequence |= {(device_id, each.sequence): each for each in readings}
    return found


def _meter(device_id: str, incarnation: int, readings: Sequence[Reading], slots: Sequence[Slot]) -> list[Violation]:
    """One device's readings of one incarnation, in the order of sealing: what the meter showed, and its own energy.

    A slot of merged readings stands in their place.
    """
    name = f"{device_id} of incarnation {incarnation}"
    found = []
    before: int | None = None
    for reading in sorted(readings, key=lambda each: each.sequence):
        imported, exported = reading.import_register_milliwatt_hours, reading.export_register_milliwatt_hours
        moment = None if imported is None or exported is None else moment_of(device_id, imported, exported)
        if moment is None or (before is not None and moment < before):
            found.append(Violation(Rule.REGISTERS, f"{name}, reading {reading.sequence}: {imported}, {exported}"))
        else:
            before = moment
    found += _energy(name, readings, slots)
    return found


def _energy(name: str, readings: Sequence[Reading], slots: Sequence[Slot]) -> list[Violation]:
    """From the first reading that is there; what was merged before it the thinning statements are judged for."""
    in_order = sorted(readings, key=lambda each: each.sequence)
    first, last = in_order[0], in_order[-1]
    if {reading.meter_epoch for reading in in_order} != {first.meter_epoch}:
        return [Violation(Rule.ENERGY, f"{name}: the meter was never replaced, and a new epoch began")]
    there = {reading.sequence for reading in in_order}
    # A slot whose leaves have not gone yet is the same readings again; of one half gone its word counts.
    merged = [s for s in slots if first.sequence < s.first_sequence < last.sequence and s.first_sequence not in there]
    covered = {number for slot in merged for number in range(slot.first_sequence, slot.last_sequence + 1)}
    said = sum(reading.net_energy_wh for reading in in_order[1:] if reading.sequence not in covered)
    said += sum(slot.net_energy_wh for slot in merged)
    counted = _net_wh(last) - _net_wh(first)
    if said != counted:
        return [Violation(Rule.ENERGY, f"{name}: readings say {said} Wh, registers {counted} Wh")]
    return []


def _net_wh(reading: Reading) -> int:
    return ((reading.import_register_milliwatt_hours or 0) - (reading.export_register_milliwatt_hours or 0)) // 1000


def _shown(told: Told) -> list[tuple[Place, bytes]]:
    return [((incarnation, number), root) for incarnation, number, root in told.shown]


def place_of(batch: VerifiedBatch) -> Place:
    """(incarnation, number)."""
    return batch.identity.incarnation, batch.identity.number


def _name(place: Place) -> str:
    return f"batch {place[1]} of incarnation {place[0]}"


def _about(encoded: bytes) -> str:
    try:
        statement = decode(encoded)
    except EvidenceError as error:
        return str(error)
    if isinstance(statement, Reading):
        return f"{statement.device_id} {statement.incarnation}.{statement.sequence}"
    return f"{type(statement).__name__} {hashlib.sha256(encoded).hexdigest()[:12]}"
