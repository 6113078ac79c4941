"""What the tests of control share: software keys, commands, sites."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.config import UnsignedCommands
from agent.control.admission import Policy
from agent.control.command import Command, CommandType, Mode, Point
from agent.control.order import Now, Order, Rank
from agent.control.site import Defaults, DeviceView, Mandate, MeterView, SiteLimits, SiteView
from agent.evidence.cose import ES256, VerifyKey
from agent.identity.trust import IssuerRights, Role, TrustList
from drivers.device import Capabilities, DeadMan, DeviceKind, VehicleSession

GATEWAY = "did:key:zDnaeTestGateway1"
START_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000
NOW = Now(wall_us=START_US)


@dataclass
class SoftKey:
    """A P-256 key in memory that fulfils `drivers.device.Signer`. Made from a number, so that tests repeat."""

    number: int
    algorithm: int = ES256

    def __post_init__(self) -> None:
        self._private = ec.derive_private_key(self.number, ec.SECP256R1())

    @property
    def public_key_der(self) -> bytes:
        return self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def verify_key(self) -> VerifyKey:
        return VerifyKey(self.algorithm, self.public_key_der)

    async def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        return r.to_bytes(32) + s.to_bytes(32)

    async def sign_digest(self, digest: bytes) -> bytes:
        raise NotImplementedError


OPERATOR, GOVERNOR, STRANGER = SoftKey(11), SoftKey(12), SoftKey(13)

SOME_COMMAND = Command(
    audience=GATEWAY,
    targets=("battery",),
    mode=Mode.SETPOINT,
    point=Point.DEVICE,
    type=CommandType.DISCHARGE,
    power_w=5_000,
    start_us=START_US,
    end_us=START_US + 15 * MINUTE_US,
    issuer="grid",
    sequence=1,
)


def curtail(power_w: int = 2_000, **changes: object) -> Command:
    """A CURTAIL of the whole site's devices."""
    base = replace(
        SOME_COMMAND, targets=(), type=CommandType.CURTAIL, mode=Mode.EXPORT_LIMIT, power_w=power_w, sequence=2
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of Command, as `replace` takes them


def order_of(command: Command, name: str = "c", rank: Rank = Rank.OPERATIONAL, received_us: int = START_US) -> Order:
    """An admitted order, with a hash that stands for the name."""
    return Order(
        hash=name.encode().ljust(32, b"\0"),
        command_id=name,
        command=command,
        issuer_key=command.issuer.encode(),
        rank=rank,
        received_us=received_us,
    )


def rights(
    key: SoftKey = OPERATOR,
    *,
    issuer: str = "grid",
    role: Role = Role.OPERATIONAL,
    types: frozenset[int] = frozenset({0, 1, 2, 3}),
    targets: tuple[str, ...] = ("*",),
    highest_power_w: int = 100_000,
    highest_priority: int = 0,
    expires_us: int = START_US + 1000 * HOUR_US,
) -> IssuerRights:
    """One entry of a trust list."""
    return IssuerRights(
        issuer=issuer,
        key=key.verify_key,
        role=role,
        types=types,
        targets=targets,
        highest_power_w=highest_power_w,
        highest_priority=highest_priority,
        expires_us=expires_us,
    )


def trust_list(*entries: IssuerRights, expires_us: int = START_US + 1000 * HOUR_US) -> TrustList:
    """A list with the operator and the governor, or with these entries."""
    return TrustList(
        version=1,
        issued_us=START_US - HOUR_US,
        expires_us=expires_us,
        issuers=entries or (rights(), rights(GOVERNOR, issuer="board", role=Role.GOVERNANCE)),
    )


def policy(unsigned: UnsignedCommands = UnsignedCommands.RESTRICTIVE, site_rating_w: int = 40_000) -> Policy:
    """What the test site accepts."""
    return Policy(
        gateway_id=GATEWAY,
        zones=frozenset({"north"}),
        unsigned=unsigned,
        controllable=frozenset({"battery", "car", "plain", "pv"}),
        site_rating_w=site_rating_w,
    )


def capabilities(import_w: int, export_w: int, **changes: object) -> Capabilities:
    """Of a device that does everything and falls back to 0."""
    base = Capabilities(
        rated_import_w=import_w,
        rated_export_w=export_w,
        limits_import=True,
        limits_export=True,
        follows_setpoint=True,
        dead_man=DeadMan.REVERTS_TO_FALLBACK,
        fallback_lowest_w=0,
        fallback_highest_w=0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # fields of Capabilities


BATTERY = DeviceView(
    device_id="battery",
    kind=DeviceKind.BATTERY,
    online=True,
    capabilities=capabilities(10_000, 10_000),
    power_w=0,
    state_of_charge_permille=600,
)
PV = DeviceView(
    device_id="pv",
    kind=DeviceKind.PV,
    online=True,
    capabilities=capabilities(0, 8_000, limits_import=False, follows_setpoint=False),
    power_w=-5_000,
)
V2G_SESSION = VehicleSession(
    transaction_id="t1",
    token_id="owner",
    state_of_charge_permille=700,
    state_of_charge_monotonic_s=0.0,
    battery_capacity_wh=60_000,
    max_charge_w=11_000,
    max_discharge_w=11_000,
)
CAR = DeviceView(
    device_id="car",
    kind=DeviceKind.CHARGER,
    online=True,
    capabilities=capabilities(11_000, 11_000, minimum_import_w=1_380),
    power_w=0,
    state_of_charge_age_s=10.0,
    vehicle=V2G_SESSION,
    fallback_import_w=4_000,
)
PLAIN = DeviceView(
    device_id="plain",
    kind=DeviceKind.CHARGER,
    online=True,
    capabilities=capabilities(11_000, 0, minimum_import_w=1_380),
    power_w=0,
    vehicle=VehicleSession(transaction_id="t2", token_id="guest"),
    fallback_import_w=4_000,
)
LIMITS = SiteLimits(
    import_limit_w=40_000,
    export_limit_w=30_000,
    phase_limit_w=63 * 230,
    phases=3,
    house_reserve_w=5_000,
    discharge_permitted=True,
)


def site(*devices: DeviceView, house_w: int | None = 1_000, orders: tuple[Order, ...] = (), **more: object) -> SiteView:
    """A site whose grid meter sees the house and the devices; `house_w` None: the meter is lost."""
    seen = devices or (BATTERY, PV, CAR, PLAIN)
    base = SiteView(
        now=NOW,
        limits=LIMITS,
        defaults=Defaults(),
        devices={device.device_id: device for device in seen},
        meter=None if house_w is None else MeterView(power_w=house_w + sum(d.present_w for d in seen)),
        orders=orders,
        mandates={
            "owner": Mandate(token_id="owner", minimum_soc_permille=300, least_price_micro_per_kwh=0, currency="EUR")
        },
    )
    return replace(base, **more)  # type: ignore[arg-type]  # fields of SiteView
