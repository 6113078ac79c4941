"""The vocabulary that drivers and the gateway share: Device, Sample, Setpoint, Capabilities, Journal, Signer.

Signs and units, everywhere: `+` is import (the device consumes), `-` is export (the device produces); watts,
milliwatt-hours in registers, volts and hertz in thousandths, all integers. Floats stop inside the drivers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag, StrEnum
from typing import Protocol


class DeviceKind(StrEnum):
    """What a device is for the plan. A charger is an EVSE with or without a car."""

    METER = "meter"
    PV = "pv"
    BATTERY = "battery"
    CHARGER = "charger"


class ValueSource(IntEnum):
    """How far a value can be traced; signed into every reading."""

    OPEN_BUS = 0
    """A bus that anybody on the site's network could speak on (Modbus)."""
    AUTHENTICATED_LINK = 1
    """A link on which the device proved who it is (OCPP with a password or certificate, Modbus/TCP Security)."""
    SIGNED_BY_METER = 2
    """The meter signed the value itself (OCMF), and the signature was verified."""


class SampleFlag(IntFlag):
    """What a driver knows about a sample that a reader of the number must know too."""

    NONE = 0
    ISLANDED = 1
    """Taken while not connected to the public grid: not settled, and its frequency is not the grid's."""
    QUEUED = 2
    """Measured while the device was offline to us, and delivered late."""
    ESTIMATED = 4
    """Not measured at this moment: interpolated, or carried forward."""
    DEVICE_TIME = 8
    """The moment of measurement is the device's own word (its clock), not ours."""


class SignatureVerdict(IntEnum):
    """What became of a meter's own signature; signed into evidence."""

    VERIFIED = 0
    """Under the key that was registered for the meter."""
    UNVERIFIABLE = 1
    """The means are lacking: no registered key, a format or a hash that is not known here."""
    WRONG = 2
    """The means are there, and it does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedValue:
    """What a meter signed itself, exactly as it came, and what it is worth."""

    record: bytes
    """Verbatim, at most MOST_RECORD_BYTES."""
    encoding_method: str
    """The format by the device's word: "OCMF"."""
    verdict: SignatureVerdict
    reason: str
    """For a person; empty when verified."""
    key_der: bytes | None
    """SubjectPublicKeyInfo of the registered key that it was judged by; None: none is registered."""
    transaction_id: str | None
    context: str
    """Why it was measured, in the device's own words: "Transaction.Begin"."""


MOST_RECORD_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at one device. Absent is None, never 0."""

    device_id: str
    monotonic_s: float
    """Moment of the measurement on the gateway's monotonic clock."""
    power_w: int | None = None
    import_register_milliwatt_hours: int | None = None
    """Cumulative, never falls within one `meter_id`."""
    export_register_milliwatt_hours: int | None = None
    meter_id: str = ""
    """Which physical meter the registers belong to. Another meter_id starts a new meter epoch."""
    phase_power_w: tuple[int, ...] = ()
    """Per phase L1, L2, L3; empty when not known."""
    voltage_millivolts: int | None = None
    """Mean of the phases' line-to-neutral voltages."""
    frequency_millihertz: int | None = None
    state_of_charge_permille: int | None = None
    source: ValueSource = ValueSource.OPEN_BUS
    flags: SampleFlag = SampleFlag.NONE
    registers_signed: bool = False
    """The meter signed every register here itself, and those signatures (in `signed`) were verified."""
    signed: tuple[SignedValue, ...] = ()
    """The meter's own signatures that came with it. A sample may hold these alone."""

    @property
    def measures_nothing(self) -> bool:
        """It holds no value but what a meter signed."""
        return (
            self.power_w is None
            and self.import_register_milliwatt_hours is None
            and self.export_register_milliwatt_hours is None
            and self.voltage_millivolts is None
            and self.frequency_millihertz is None
            and self.state_of_charge_permille is None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setpoint:
    """The band that a device's power shall stay in, until the lease ends. One band says every order:

    a setpoint of -5 kW is [-5000, -5000], a PV limit of 2 kW export [-2000, None], a charging limit [0, 7400],
    stop [0, 0]. None on a side leaves that side to the device (its ratings, its own control).
    """

    lowest_w: int | None
    highest_w: int | None
    lease_s: float
    """The device, or where it cannot the driver, drops a permission this long after it was last applied."""
    reason: str
    """Names the command, rule or default that made the band: one sentence for a person."""
    for_frequency: bool = False
    """The band answers the grid's frequency: devices that know such orders are told so."""

    def __post_init__(self) -> None:
        if self.lowest_w is not None and self.highest_w is not None and self.lowest_w > self.highest_w:
            raise ValueError(f"setpoint band is empty: lowest {self.lowest_w} W is above highest {self.highest_w} W")


class DeadMan(Enum):
    """What the device itself does when we fall silent (SAFETY 2)."""

    NONE = "none"
    """Holds the last order for ever: counted at its nameplate."""
    REVERTS_UNLIMITED = "reverts to its own ratings"
    REVERTS_TO_FALLBACK = "reverts to a fallback that was put into it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a device can do, as found on it. The plan counts on nothing else."""

    rated_import_w: int
    """Nameplate, zero or positive."""
    rated_export_w: int
    """Nameplate, zero or positive."""
    limits_import: bool
    """Obeys `highest_w` of zero and above."""
    limits_export: bool
    """Obeys `lowest_w` of zero and below."""
    follows_setpoint: bool
    """Can be ordered to a given power (a band of one value), within what its car or battery allows."""
    dead_man: DeadMan
    fallback_lowest_w: int
    """Lowest power it may take by itself when we are silent (zero or negative)."""
    fallback_highest_w: int
    """Highest power it may take by itself when we are silent (zero or positive)."""
    energy_capacity_wh: int | None = None
    """What a battery can hold from empty to full, as it is now; None: nobody says. A car's is in its session."""
    minimum_import_w: int = 0
    """Smallest charging power that is not zero (6 A on its phases); below it the device stops."""
    response_s: float = 2.0
    """From an order to the metered power."""
    phases: tuple[int, ...] = (1, 2, 3)
    disconnects: bool = False
    """Its driver can take it off the grid and connect again what it disconnected itself. No band does that."""
    own_droop: bool = False
    """It answers the grid's frequency by itself: nothing is added to that (SAFETY 5)."""
    reconnect_delay_s: int = 0
    """Its own wait after grid return, its random part at the longest (SAFETY 7)."""
    notes: tuple[str, ...] = ()
    """What it cannot do, in sentences for a person: "no device-side dead man"."""


class LinkState(Enum):
    """Whether we hear the device."""

    STARTING = "starting"
    ONLINE = "online"
    SILENT = "silent"
    """Was or should be there and does not answer; the driver keeps trying."""
    FAULT = "fault"
    """Answers, but with something that we must not use: another device, nonsense, wrong credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleSession:
    """The car at a charger, as far as the charger and the car told. Absent is None."""

    transaction_id: str | None
    """None: plugged in, nothing authorised yet."""
    token_id: str | None
    """Who was authorised (RFID, contract): the owner's mandate is looked up by it."""
    charge_now: bool = False
    """The driver asked for charging now; beats every plan but safety."""
    state_of_charge_permille: int | None = None
    state_of_charge_monotonic_s: float | None = None
    battery_capacity_wh: int | None = None
    energy_needed_wh: int | None = None
    """Until departure, by the car's or driver's word."""
    departure_timestamp_us: int | None = None
    max_charge_w: int | None = None
    """The car's own limits, where it told them."""
    max_discharge_w: int | None = None
    """Zero or positive. None: the car did not say that it can discharge."""
    declines: bool = False
    """By the charger's word the car takes nothing of what it may (OCPP: SuspendedEV): it is full, or waits itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A snapshot for the plan, the status page and the metrics. Cheap to take, never blocks."""

    device_id: str
    kind: DeviceKind
    link: LinkState
    detail: str
    """One sentence for a person: what is wrong and what to do, or what the device is."""
    capabilities: Capabilities | None = None
    """None until first contact."""
    last_sample: Sample | None = None
    setpoint: Setpoint | None = None
    """The band that the device holds now, as confirmed by the device; None: released, or the lease has ended."""
    follows: bool | None = None
    """Whether metered power is in that band; False only after the device had its time to get there. None: nothing is
    ordered, not metered, or not to be judged now. A confirmed register is no obedience."""
    vehicle: VehicleSession | None = None


class DeviceError(Exception):
    """A device did not do what was asked. The message says what, which device, and what to do."""


class DeviceRefusedError(DeviceError):
    """The device answered no. Asking again changes nothing."""


class DeviceUnreachableError(DeviceError):
    """No answer. Whether the order arrived is unknown: count the device as SAFETY 3 says."""


class Device(Protocol):
    """One controllable or metered thing. A driver makes it; the gateway runs it in a task of its own."""

    @property
    def device_id(self) -> str: ...

    @property
    def kind(self) -> DeviceKind: ...

    def status(self) -> DeviceStatus: ...

    async def run(self, emit: Callable[[Sample], None]) -> None:
        """Connect, poll and report until cancelled; survive everything that the device does. `emit` never blocks."""
        ...

    async def apply(self, setpoint: Setpoint) -> None:
        """Make the device hold the band, and read back that it took it.

        Returns when the device has confirmed. Raises DeviceRefusedError or DeviceUnreachableError.
        The caller renews before the lease ends; the same band again is a renewal.
        """
        ...

    async def release(self) -> None:
        """Give the device back to itself: the settings that were found at first contact. Raises as `apply` does."""
        ...


class Journal(Protocol):
    """Where a driver keeps what must survive a restart. The gateway gives each driver its own name space."""

    async def remember(self, key: str, value: bytes) -> None:
        """Returns once the value survives a power cut."""
        ...

    async def recall(self, key: str) -> bytes | None: ...


class Signer(Protocol):
    """One key that cannot leave its token."""

    @property
    def algorithm(self) -> int:
        """COSE algorithm number: -7 ES256, -47 ES256K, -19 Ed25519."""
        ...

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """The signature in COSE form (ECDSA: r || s). It was verified against the public key before it is returned.

        Raises SignerUnavailableError while the token is away.
        """
        ...

    async def sign_digest(self, digest: bytes) -> bytes:
        """As `sign`, over a 32-byte digest that the caller made (EIP-712). ECDSA keys only; low s."""
        ...


class SignerUnavailableError(Exception):
    """The token is away or busy beyond its deadline. What waits for a signature stays in the store."""
