"""The Reading: what we are ready to sign about one device at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from drivers.device import SignatureVerdict, ValueSource


class Quality(IntFlag):
    """Flags of a reading, signed with it. The low bits are the driver's SampleFlag, unchanged."""

    GOOD = 0
    ISLANDED = 1
    QUEUED = 2
    ESTIMATED = 4
    DEVICE_TIME = 8
    CLOCK_HOLDOVER = 16
    """Our clock was not synchronised at the moment, but had been, with a known error bound."""
    CLOCK_UNTRUSTED = 32
    EPOCH_START = 64
    """First reading of a meter epoch: its net energy is 0 by definition, the registers are the new origin.

    With ESTIMATED the epoch began with a fall of the registers, which are those seen first after the fall.
    """
    NO_REGISTER = 128
    """The device gave no energy register: net energy is 0 and says nothing."""
    REGISTER_HELD = 256
    """A register was missing, late or implausible (fell, jumped, read 0 on waking): the last good one is repeated."""
    POWER_REJECTED = 512
    """The power was an outlier and is given as null. A register is never rejected this way."""
    AFTER_GAP = 1024
    """Readings are missing before this one; its net energy covers the gap."""


@dataclass(frozen=True, slots=True)
class SignatureReference:
    """Names the statement that holds a value as the meter itself signed it, and repeats its verdict."""

    statement_hash: bytes
    """SHA-256 of its leaf bytes."""
    verdict: SignatureVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Identity: (device_id, incarnation, boot_id, sequence). Units as in `drivers.device.Sample`.

    `net_energy_wh` is floor(net register / 1000) now minus the same at the newest earlier reading that has a register
    and is of the same meter epoch. The net register is import minus export in milliwatt-hours; one that is None adds 0.
    So any run of readings sums to the register difference to within 1 Wh, and an auditor recomputes each from two
    statements.
    """

    device_id: str
    incarnation: int
    boot_id: bytes
    """16 bytes, drawn at each start of the agent."""
    sequence: int
    """Gapless per device, from 1; goes on over restarts."""
    timestamp_us: int
    """Unix time of the measurement, microseconds."""
    net_energy_wh: int
    import_register_milliwatt_hours: int | None
    export_register_milliwatt_hours: int | None
    meter_epoch: int
    """From 1; one more for each change of the physical meter or reset of its registers."""
    power_w: int | None
    voltage_millivolts: int | None
    state_of_charge_permille: int | None
    frequency_millihertz: int | None
    quality: Quality
    source: ValueSource
    signed_values: tuple[SignatureReference, ...] = ()
    """What the meter signed at the same moment; at most MOST_SIGNED_VALUES."""


MOST_SIGNED_VALUES = 16
