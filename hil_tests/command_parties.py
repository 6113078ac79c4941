"""Who orders what at which site in the vectors of commands and schedules: keys, rights, and two commands."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.control.command import Command, CommandType, Mode, Point, Price, Priority
from agent.evidence.cose import ES256, key_id_of

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

GATEWAY: Final = "did:key:zGatewayUnderTest"
NOW_US: Final = 1_790_000_000_000_000
MINUTE_US: Final = 60_000_000
DAY_US: Final = 1440 * MINUTE_US


@dataclass(frozen=True)
class Issuer:
    """A key of the vectors. Its secret is public; signatures are deterministic (RFC 6979)."""

    name: str
    secret: int
    algorithm: int = ES256

    @property
    def public_key_der(self) -> bytes:
        public = ec.derive_private_key(self.secret, ec.SECP256R1()).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    async def sign(self, message: bytes) -> bytes:
        return await self.sign_digest(hashlib.sha256(message).digest())

    async def sign_digest(self, digest: bytes) -> bytes:
        private = ec.derive_private_key(self.secret, ec.SECP256R1())
        r, s = decode_dss_signature(
            private.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True))
        )
        return r.to_bytes(32) + s.to_bytes(32)


OPERATOR: Final = Issuer("grid-operator", 0xC0FFEE01)
SOLAR: Final = Issuer("solar-only", 0xC0FFEE02)
BOARD: Final = Issuer("board", 0xC0FFEE03)
STRANGER: Final = Issuer("grid-operator", 0xC0FFEE04)
"""In nobody's list."""
SECOND_KEY: Final = Issuer("grid-operator", 0xC0FFEE05)
"""The operator's other one."""
CARBON: Final = Issuer("carbon-desk", 0xC0FFEE06)
BATTERIES: Final = Issuer("battery-pool", 0xC0FFEE07)
RETIRED: Final = Issuer("old-board", 0xC0FFEE08)
ALL_TYPES: Final = (0, 1, 2, 3)
NEVER_US: Final = 2**53

DISCHARGE: Final = Command(
    audience=GATEWAY,
    targets=("battery", "car"),
    mode=Mode.SETPOINT,
    point=Point.DEVICE,
    type=CommandType.DISCHARGE,
    power_w=7_400,
    max_energy_wh=5_000,
    start_us=NOW_US,
    end_us=NOW_US + 15 * MINUTE_US,
    price=Price(123_456, "EUR"),
    issuer=OPERATOR.name,
    epoch=1,
    sequence=1,
    campaign="evening",
    cancels=(bytes(32),),
    resume=True,
)
CURTAIL: Final = Command(
    audience="zone:north",
    mode=Mode.EXPORT_LIMIT,
    point=Point.CONNECTION,
    type=CommandType.CURTAIL,
    power_w=0,
    start_us=NOW_US + 5 * MINUTE_US,
    end_us=NOW_US + 10 * MINUTE_US,
    issuer=OPERATOR.name,
    sequence=2,
    priority=Priority.CARBON,
)


def text_of(value: Json) -> str:
    """As the files hold it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def site() -> Json:
    """Who and what the messages are judged by."""
    issuers: list[Json] = [
        {
            "issuer": issuer.name,
            "algorithm": issuer.algorithm,
            "public_key_der": issuer.public_key_der.hex(),
            "key_id": key_id_of(issuer.public_key_der).hex(),
            "secret": f"{issuer.secret:064x}",
            "role": role,
            "types": list(types),
            "targets": list(targets),
            "highest_power_w": 50_000,
            "highest_priority": priority,
            "expires_us": expires_us,
        }
        for issuer, role, types, targets, priority, expires_us in (
            (OPERATOR, "operational", ALL_TYPES, ("*",), 0, NEVER_US),
            (SECOND_KEY, "operational", ALL_TYPES, ("*",), 0, NEVER_US),
            (SOLAR, "operational", (3,), ("pv",), 0, NEVER_US),
            (BOARD, "governance", ALL_TYPES, ("*",), 0, NEVER_US),
            (CARBON, "operational", ALL_TYPES, ("zone:north",), 2, NEVER_US),
            (BATTERIES, "operational", ALL_TYPES, ("class:battery",), 0, NEVER_US),
            (RETIRED, "governance", ALL_TYPES, ("*",), 0, NOW_US),
        )
    ]
    return {
        "warning": "The secrets are public: never trust these keys outside tests.",
        "now_us": NOW_US,
        "gateway_id": GATEWAY,
        "zones": ["north"],
        "devices": ["battery", "car", "pv"],
        "classes": {"battery": ["battery"], "charger": ["car"]},
        "unsigned_commands": "restrictive",
        "site_rating_w": 10_000,
        "trust_list_expires_us": NEVER_US,
        "issuers": issuers,
    }
