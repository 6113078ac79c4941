"""Evidence and an outbox without a gateway: real batches signed by a software key, kept in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agent.clock import ClockQuality
from agent.evidence.acknowledgement import Acknowledgement, prepare
from agent.evidence.batch import KeyProtection, SealedBatch, assemble, seal
from agent.evidence.cose import key_id_of
from agent.evidence.partial import decode_any, numbered_leaves
from agent.evidence.statements import Sealing, Statement, decode, encode, kind_of
from agent.identity.did import did_of
from agent.measure.reading import Quality, Reading
from agent.uplink.session import UplinkIdentity
from drivers.device import ValueSource
from hil_tests.rig.platform.keys import SoftwareKey

BOOT_ID = bytes(range(16))
FIRST_US = 1_800_000_000_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A batch as the store holds it."""

    incarnation: int
    number: int
    root: bytes
    encoded: bytes


@dataclass
class MemoryOutbox:
    """The Outbox protocol over a list."""

    incarnation: int = 1
    rows: list[Row] = field(default_factory=list)
    acknowledged: dict[int, int] = field(default_factory=dict)
    acknowledged_at_us: list[int] = field(default_factory=list)
    notes: dict[str, bytes] = field(default_factory=dict)

    async def unacknowledged_incarnations(self) -> Sequence[int]:
        return sorted({r.incarnation for r in self.rows if r.number > self.acknowledged.get(r.incarnation, 0)})

    async def incarnations(self) -> Sequence[int]:
        return sorted({r.incarnation for r in self.rows})

    async def unacknowledged(self, after_number: int, limit: int, *, incarnation: int | None = None) -> Sequence[Row]:
        which = self.incarnation if incarnation is None else incarnation
        least = max(after_number, self.acknowledged.get(which, 0))
        return [r for r in self.rows if r.incarnation == which and r.number > least][:limit]

    async def acknowledged_number(self, incarnation: int | None = None) -> int:
        return self.acknowledged.get(self.incarnation if incarnation is None else incarnation, 0)

    async def batches(self, from_number: int, limit: int, *, incarnation: int | None = None) -> Sequence[Row]:
        which = self.incarnation if incarnation is None else incarnation
        return [r for r in self.rows if r.incarnation == which and r.number >= from_number][:limit]

    async def unacknowledged_with(
        self, kinds: Collection[int], after_number: int, *, incarnation: int | None = None
    ) -> Sequence[int]:
        return [
            row.number
            for row in await self.unacknowledged(after_number, len(self.rows), incarnation=incarnation)
            if any(kind_of(decode(leaf)) in kinds for _, leaf in numbered_leaves(decode_any(row.encoded)))
        ]

    async def newest_of(self, device_id: str, kind: int) -> bytes | None:
        found = [
            leaf
            for row in self.rows
            for _, leaf in numbered_leaves(decode_any(row.encoded))
            if kind_of(decode(leaf)) == kind and getattr(decode(leaf), "device_id", None) == device_id
        ]
        return found[-1] if found else None

    async def note(self, name: str) -> bytes | None:
        return self.notes.get(name)

    async def set_notes(self, notes: Mapping[str, bytes | None]) -> None:
        for name, value in notes.items():
            if value is None:
                self.notes.pop(name, None)
            else:
                self.notes[name] = value

    async def acknowledge(self, incarnation: int, up_to_number: int, at_us: int) -> int:
        before = self.acknowledged.get(incarnation, 0)
        self.acknowledged[incarnation] = max(before, up_to_number)
        self.acknowledged_at_us.append(at_us)
        return max(0, up_to_number - before)

    def all_acknowledged(self) -> bool:
        return all(row.number <= self.acknowledged.get(row.incarnation, 0) for row in self.rows)


class Evidence:
    """Makes the readings and batches that one gateway would make."""

    def __init__(self, *, incarnation: int = 1, key: SoftwareKey | None = None) -> None:
        self.key = key or SoftwareKey.generate()
        self.gateway_id = did_of(self.key.public_key_der)
        self.incarnation = incarnation
        self._sequences: dict[str, int] = {}
        self._number = 0
        self._previous_root = bytes(32)

    def identity(self, *device_ids: str) -> UplinkIdentity:
        return UplinkIdentity(
            gateway_id=self.gateway_id,
            incarnation=self.incarnation,
            boot_id=BOOT_ID,
            software_version="0",
            device_ids=device_ids,
        )

    def reading(self, device_id: str) -> Reading:
        """The next reading of a device."""
        sequence = self._sequences[device_id] = self._sequences.get(device_id, 0) + 1
        return Reading(
            device_id=device_id,
            incarnation=self.incarnation,
            boot_id=BOOT_ID,
            sequence=sequence,
            timestamp_us=FIRST_US + sequence * 1_000_000,
            net_energy_wh=1,
            import_register_milliwatt_hours=sequence * 1000,
            export_register_milliwatt_hours=None,
            meter_epoch=1,
            power_w=3600,
            voltage_millivolts=None,
            state_of_charge_permille=505,
            frequency_millihertz=None,
            quality=Quality.GOOD,
            source=ValueSource.OPEN_BUS,
        )

    def seal(self, *statements: Statement) -> SealedBatch:
        """The next batch."""
        sealing = Sealing(sealed_at_us=FIRST_US, clock_quality=ClockQuality.SYNCED, clock_error_bound_us=1000)
        self._number += 1
        unsigned = assemble(
            [encode(statement) for statement in (sealing, *statements)],
            gateway_id=self.gateway_id,
            incarnation=self.incarnation,
            boot_id=BOOT_ID,
            number=self._number,
            previous_root=self._previous_root,
            key_protection=KeyProtection.SOFTWARE,
            algorithm=self.key.algorithm,
            key_id=key_id_of(self.key.public_key_der),
        )
        self._previous_root = unsigned.root
        return seal(unsigned, self.key.sign_now(unsigned.to_be_signed))

    def row(self, *device_ids: str) -> Row:
        """A batch with one new reading for each of these devices."""
        return row_of(self.seal(*(self.reading(device_id) for device_id in device_ids)))


def row_of(batch: SealedBatch) -> Row:
    return Row(batch.identity.incarnation, batch.identity.number, batch.root, batch.encode())


def acknowledgement(
    platform: SoftwareKey, gateway_id: str, row: Row, *, platform_time_us: int = FIRST_US, root: bytes | None = None
) -> bytes:
    """What a platform signs for a batch."""
    unsigned = prepare(
        Acknowledgement(
            gateway_id=gateway_id,
            incarnation=row.incarnation,
            batch_number=row.number,
            root=row.root if root is None else root,
            platform_time_us=platform_time_us,
        ),
        algorithm=platform.algorithm,
        key_id=key_id_of(platform.public_key_der),
    )
    return unsigned.encode(platform.sign_now(unsigned.to_be_signed))
