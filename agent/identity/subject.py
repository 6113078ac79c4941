"""What an identifier is about: owner, operator, coarse place, certified ratings, devices; as CBOR.

proto/IDENTITY.md section 3. Nothing in here changes without the owner's and the operator's signatures (history.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

from agent.evidence import cbor, cose
from agent.evidence.cose import VerifyKey
from agent.evidence.fields import Fields
from agent.identity.errors import HistoryError

COUNTERSIGNERS: Final = frozenset({cose.ML_DSA_65})
MOST_TEXT: Final = 255
MOST_RATINGS: Final = 256
MOST_DEVICES: Final = 256
MICRODEGREES: Final = 1_000_000
COARSE_GRID: Final = 10_000
"""Microdegrees: 0.01 degree, about 1.1 km from north to south. A house is not found by it."""
_MOST_LATITUDE: Final = 90 * MICRODEGREES
_MOST_LONGITUDE: Final = 180 * MICRODEGREES


@dataclass(frozen=True, slots=True)
class Party:
    """An owner or an operator: a name for people, and the key that speaks for it. Raises ValueError."""

    name: str
    key: VerifyKey
    recovery: bytes | None = None
    """Commitment to the key that replaces this one when it is lost; None: nothing does."""

    def __post_init__(self) -> None:
        check_text(self.name, "name of a party")
        if self.recovery is not None and len(self.recovery) != 32:
            raise ValueError(f"recovery key of {self.name}: its commitment has 32 bytes")


@dataclass(frozen=True, slots=True)
class Location:
    """A place, rounded to a grid that is named with it. Raises ValueError."""

    latitude: int
    """Microdegrees, + is north; a multiple of `grid`."""
    longitude: int
    """Microdegrees, + is east; a multiple of `grid`."""
    grid: int
    """Microdegrees between two places that can be told apart."""

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= MICRODEGREES:
            raise ValueError(f"grid of a location is {self.grid} microdegrees, 1 to {MICRODEGREES} are right")
        if abs(self.latitude) > _MOST_LATITUDE or abs(self.longitude) > _MOST_LONGITUDE:
            raise ValueError("a location has at most 90 degrees of latitude and 180 of longitude")
        if self.latitude % self.grid or self.longitude % self.grid:
            raise ValueError(f"a location is not a multiple of its grid of {self.grid} microdegrees")


def rounded(text: str, grid: int = COARSE_GRID) -> Location:
    """The place of "LATITUDE,LONGITUDE" in decimal degrees, rounded to the nearest point of the grid (half to even).

    Raises ValueError.
    """
    try:
        latitude, longitude = (Decimal(part.strip()) for part in text.split(","))
        points = [int((degrees * MICRODEGREES / grid).to_integral_value(ROUND_HALF_EVEN)) * grid
                  for degrees in (latitude, longitude)]  # fmt: skip
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError(f"location {text[:60]!r}: write LATITUDE,LONGITUDE in degrees, such as 52.52,13.41") from None
    return Location(points[0], points[1], grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What somebody certified about the site or one of its devices. Raises ValueError."""

    device_id: str | None
    """None: of the whole site."""
    name: str
    """"export", "import", "energy", "meter class": the certificate's word."""
    value: int
    unit: str
    certificate: str
    """Which certificate says so: issuer and number."""

    def __post_init__(self) -> None:
        for text, what in ((self.name, "name"), (self.unit, "unit"), (self.certificate, "certificate")):
            check_text(text, f"{what} of a rating")
        if self.device_id is not None:
            check_text(self.device_id, "device of a rating")
        if not 0 <= self.value < 1 << 63:
            raise ValueError(f"rating {self.name!r}: its value is not an integer from 0 to 2^63 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """What names a device behind the gateway beyond its id. Raises ValueError."""

    device_id: str
    serial_number: str
    """As the maker wrote it on the device; empty when unknown."""
    key: VerifyKey | None
    """Its own key in the gateway's token (settled devices): it signs the device's channel."""
    meter_key: bytes | None
    """SubjectPublicKeyInfo (DER) of the key with which its meter signs."""
    charger_certificate: bytes | None
    """SHA-256 of the charger's certificate (DER)."""

    def __post_init__(self) -> None:
        check_text(self.device_id, "device id")
        if self.serial_number:
            check_text(self.serial_number, f"serial number of {self.device_id}")
        if self.charger_certificate is not None and len(self.charger_certificate) != 32:
            raise ValueError(f"certificate of {self.device_id}: its fingerprint is SHA-256, 32 bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """All that an identifier's document says beyond its key. Raises ValueError."""

    owner: Party
    operator: Party
    location: Location | None
    ratings: tuple[Rating, ...] = ()
    devices: tuple[DeviceIdentity, ...] = ()
    """In ascending order of their ids, each once."""
    countersigner: VerifyKey | None = None
    """The gateway's second key: it countersigns each root."""

    def __post_init__(self) -> None:
        if self.owner.key.key_id == self.operator.key.key_id:
            raise ValueError("owner and operator have one and the same key: dual control needs two")
        if len(self.ratings) > MOST_RATINGS or len(self.devices) > MOST_DEVICES:
            raise ValueError(f"at most {MOST_RATINGS} ratings and {MOST_DEVICES} devices are allowed")
        if self.owner.recovery is not None and self.owner.recovery == self.operator.recovery:
            raise ValueError("owner and operator have one and the same recovery key: dual control needs two")
        if self.countersigner is not None and self.countersigner.algorithm not in COUNTERSIGNERS:
            raise ValueError(f"algorithm {self.countersigner.algorithm} is not for countersignatures")
        ids = [device.device_id for device in self.devices]
        if ids != sorted(set(ids)):
            raise ValueError("devices are not in ascending order of their ids, each once")
        known = {None, *ids}
        for rating in self.ratings:
            if rating.device_id not in known:
                raise ValueError(f"rating {rating.name!r} is of device {rating.device_id!r}, which is not listed")

    @property
    def version(self) -> int:
        """Of the layout: 1 where it says enough, so that what was signed long ago stays what it is."""
        new = (self.owner.recovery, self.operator.recovery, self.countersigner)
        return 1 if all(each is None for each in new) else 2


def encode_subject(subject: Subject, version: int) -> cbor.Value:
    """As an array for an order's body of a format version."""
    place = subject.location
    ratings: list[cbor.Value] = [
        [r.device_id, r.name, r.value, r.unit, r.certificate] for r in subject.ratings
    ]  # fmt: skip
    devices: list[cbor.Value] = [
        [d.device_id, d.serial_number, None if d.key is None else encode_key(d.key), d.meter_key, d.charger_certificate]
        for d in subject.devices
    ]
    second = subject.countersigner
    return [
        _encode_party(subject.owner, version),
        _encode_party(subject.operator, version),
        None if place is None else [place.latitude, place.longitude, place.grid],
        ratings,
        devices,
        *([] if version == 1 else [None if second is None else encode_key(second)]),
    ]


def _encode_party(party: Party, version: int) -> list[cbor.Value]:
    return [party.name, encode_key(party.key), *([] if version == 1 else [party.recovery])]


def decode_subject(value: list[cbor.Value], version: int) -> Subject:
    """Raises ValueError, TypeError or EvidenceError, which name the field."""
    fields = Fields(value)
    owner, operator = (_party(fields.items(), version) for _ in range(2))
    location = _location(fields)
    ratings = tuple(_rating(_array(item)) for item in fields.items())
    devices = tuple(_device(_array(item)) for item in fields.items())
    second = None if version == 1 else fields.items_or_none()
    fields.end()
    return Subject(
        owner=owner,
        operator=operator,
        location=location,
        ratings=ratings,
        devices=devices,
        countersigner=None if second is None else decode_key(second),
    )


def encode_key(key: VerifyKey) -> list[cbor.Value]:
    """A key with the algorithm that it is used with."""
    return [key.algorithm, key.public_key_der]


def decode_key(value: list[cbor.Value]) -> VerifyKey:
    """Raises ValueError, TypeError or EvidenceError when the algorithm does not go with the key."""
    fields = Fields(value)
    algorithm, spki = fields.number(), fields.octets()
    fields.end()
    check_algorithm(algorithm, spki)
    return VerifyKey(algorithm, spki)


def check_algorithm(algorithm: int, spki: bytes) -> None:
    """Raises HistoryError or EvidenceError. ESP256 is ES256 by its fully specified name: both are for P-256."""
    kind = cose.ES256 if algorithm == cose.ESP256 else algorithm
    if cose.verify_key_of(spki).algorithm != kind:
        raise HistoryError(f"algorithm {algorithm} does not go with its key")


def possible_keys(public_key_der: bytes) -> list[VerifyKey]:
    """A key with each of the algorithms that it may be used with. Raises EvidenceError."""
    key = cose.verify_key_of(public_key_der)
    return [key, VerifyKey(cose.ESP256, public_key_der)] if key.algorithm == cose.ES256 else [key]


def check_text(text: str, what: str) -> None:
    """Raises ValueError for what no person can read."""
    if not 1 <= len(text) <= MOST_TEXT or not text.isprintable():
        raise ValueError(f"{what}: 1 to {MOST_TEXT} printable characters are right, found {text[:60]!r}")


def _party(value: list[cbor.Value], version: int) -> Party:
    fields = Fields(value)
    party = Party(fields.text(), decode_key(fields.items()), None if version == 1 else fields.octets_or_none())
    fields.end()
    return party


def _location(fields: Fields) -> Location | None:
    value = fields.items_or_none()
    if value is None:
        return None
    place = Fields(value)
    location = Location(place.number(), place.number(), place.number())
    place.end()
    return location


def _rating(value: list[cbor.Value]) -> Rating:
    fields = Fields(value)
    rating = Rating(
        device_id=fields.text_or_none(), name=fields.text(), value=fields.count(), unit=fields.text(),
        certificate=fields.text(),
    )  # fmt: skip
    fields.end()
    return rating


def _device(value: list[cbor.Value]) -> DeviceIdentity:
    fields = Fields(value)
    device_id, serial_number, key = fields.text(), fields.text(), fields.items_or_none()
    meter_key, charger_certificate = fields.octets_or_none(), fields.octets_or_none()
    fields.end()
    if meter_key is not None and not meter_key:
        raise ValueError(f"meter key of {device_id[:60]!r} is empty")
    return DeviceIdentity(
        device_id=device_id,
        serial_number=serial_number,
        key=None if key is None else decode_key(key),
        meter_key=meter_key,
        charger_certificate=charger_certificate,
    )


def _array(value: cbor.Value) -> list[cbor.Value]:
    if not isinstance(value, list):
        raise TypeError("an entry of a list is not an array")
    return value
