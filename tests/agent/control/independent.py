"""A reader of commands written from proto/COMMANDS.md sections 2 to 4 alone: it shares no code with agent/.

Encoding, keys and signatures come from the stranger's verifier of evidence, as the page says.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Any

import cbor2

from tests.agent.evidence import independent as evidence

HOUR_US = 3_600_000_000
TYP = "v2g-gateway/command+cose"
DEVICE = r"[a-z0-9][a-z0-9-]{0,62}"
CLASS = r"class:(?:battery|charger|pv)"
ZONE = r"zone:[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
DID = r"did:(?:key|v2g):z[1-9A-HJ-NP-Za-km-z]{10,200}"
CHARGE, DISCHARGE, IDLE, CURTAIL = range(4)


# -- section 2: bodies


def uint(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def text(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 255


def matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def price(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list) and len(value) == 2 and uint(value[0], 10**12) and matches("[A-Z]{3}", value[1])
    )  # fmt: skip


def targets(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 200
        and all(matches(f"{DEVICE}|{CLASS}", each) for each in value)
        and len(set(value)) == len(value)
    )


def elements(body: bytes, count: int, most_bytes: int) -> list[Any] | None:
    """A deterministic array of so many elements that begins with version 1; None: it is none."""
    if len(body) > most_bytes:
        return None
    try:
        value = evidence.strict(body)
    except (evidence.RefusedError, ValueError, cbor2.CBORDecodeError):
        return None
    good = isinstance(value, list) and len(value) == count and type(value[0]) is int and value[0] == 1
    return list(value) if good else None


@dataclass(frozen=True)
class Body:
    """As in the CDDL, by name."""

    audience: str
    targets: list[str]
    mode: int
    point: int
    type: int
    power_w: int
    max_energy_wh: int | None
    start_us: int
    end_us: int
    price: list[Any] | None
    issuer: str
    epoch: int
    sequence: int
    priority: int

    @property
    def restrictive(self) -> bool:
        return self.type in (IDLE, CURTAIL) or (self.power_w == 0 and self.point == 1)

    def ordered(self) -> tuple[int, int]:
        """Wh, and millionths of a currency's unit (section 5, step 10)."""
        if self.mode != 0:
            return 0, 0
        energy_wh = self.power_w * (self.end_us - self.start_us) // HOUR_US
        energy_wh = energy_wh if self.max_energy_wh is None else min(energy_wh, self.max_energy_wh)
        return energy_wh, 0 if self.price is None else energy_wh * self.price[0] // 1000


def body_of(encoded: bytes) -> Body | None:
    """Section 2.1; None: refused."""
    value = elements(encoded, 18, 16 * 1024)
    if value is None:
        return None
    (_, audience, wanted, mode, point, type_, power, energy, start, end, money, issuer, epoch, sequence, priority,
     campaign, cancels, resume) = value  # fmt: skip
    good = (
        matches(f"{ZONE}|{DID}", audience)
        and targets(wanted)
        and uint(mode, 2)
        and uint(point, 1)
        and uint(type_, 3)
        and (type_ == CURTAIL) == (mode != 0)
        and uint(power, 10**9)
        and (type_ != IDLE or (power == 0 and point == 1))
        and (energy is None or (uint(energy, 10**12) and energy > 0))
        and uint(start, 2**53)
        and uint(end, 2**53)
        and start < end
        and price(money)
        and text(issuer)
        and uint(epoch, 2**32 - 1)
        and uint(sequence, 2**63 - 1)
        and uint(priority, 2)
        and (campaign is None or text(campaign))
        and isinstance(cancels, list)
        and len(cancels) <= 64
        and all(isinstance(each, bytes) and len(each) == 32 for each in cancels)
        and len(set(cancels)) == len(cancels)
        and isinstance(resume, bool)
    )
    if not good:
        return None
    return Body(
        audience, wanted, mode, point, type_, power, energy, start, end, money, issuer, epoch, sequence, priority
    )  # fmt: skip


# -- section 4: plain fields


def float_bits(value: float) -> str:
    return struct.pack(">f", value).hex()


def power_bits(body: Body) -> str:
    return float_bits(body.power_w / 1000)


def price_bits(body: Body) -> str:
    return float_bits(0.0 if body.price is None else body.price[0] / 10_000)


def message_hash(message: dict[str, Any]) -> bytes:
    """Section 2.2."""
    authorization = bytes.fromhex(message["authorization"])
    fields = [
        0, message["command_id"], message["stream"], message["type"], bytes.fromhex(message["power_limit_kw_bits"]),
        bytes.fromhex(message["price_per_kwh_cents_bits"]), message["valid_until_timestamp_us"],
        bytes.fromhex(message["command_hash"]), hashlib.sha256(authorization).digest() if authorization else None,
    ]  # fmt: skip
    return hashlib.sha256(evidence.dump(fields, 0)).digest()


# -- section 3: authorization


@dataclass(frozen=True)
class Signature:
    algorithm: int
    key_id: bytes
    message: bytes
    signature: bytes


def signed_body(encoded: bytes, typ: str) -> tuple[bytes, list[Signature]]:
    """The body, and what must verify. Any exception is a refusal."""
    evidence.refuse_unless(0 < len(encoded) <= 32 * 1024, "size")
    value: Any = cbor2.loads(encoded)
    evidence.refuse_unless(isinstance(value, cbor2.CBORTag) and value.tag in (18, 98), "tag")
    prefix = {18: b"\xd2", 98: b"\xd8\x62"}[value.tag]
    evidence.refuse_unless(encoded == prefix + evidence.dump(value.value, 1), "not deterministic")
    protected, unprotected, body, last = value.value
    evidence.refuse_unless(unprotected == {} and isinstance(body, bytes), "unprotected header or payload")
    outer = evidence.strict(protected)
    evidence.refuse_unless(outer.get(16) == typ, "typ")
    if value.tag == 18:
        evidence.refuse_unless(set(outer) == {1, 4, 16}, "header")
        return body, [claimed(outer, ["Signature1", protected, b"", body], last)]
    evidence.refuse_unless(set(outer) == {16} and len(last) == 2, "header or number of signatures")
    found = []
    for own, more, signature in last:
        inner = evidence.strict(own)
        evidence.refuse_unless(set(inner) == {1, 4} and more == {}, "header of a signature")
        found.append(claimed(inner, ["Signature", protected, own, b"", body], signature))
    evidence.refuse_unless(found[0].key_id != found[1].key_id, "one key twice")
    return body, found


def claimed(header: dict[int, Any], structure: list[Any], signature: Any) -> Signature:
    evidence.refuse_unless(type(header[1]) is int and isinstance(signature, bytes), "alg or signature")
    evidence.field(header[4], "b32")
    return Signature(header[1], header[4], evidence.dump(structure, 0), signature)
