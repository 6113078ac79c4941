"""A judge of commands written from proto/COMMANDS.md section 5 alone: it goes on where `independent` ends."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature

from tests.agent.control.independent import (
    CURTAIL,
    HOUR_US,
    IDLE,
    TYP,
    Body,
    Signature,
    body_of,
    message_hash,
    power_bits,
    price_bits,
    signed_body,
)
from tests.agent.evidence import independent as evidence

DAY_US = 24 * HOUR_US
MOST_WH, MOST_MICRO = 10_000_000, 10_000 * 1_000_000
WINDOW = 1024


class RefusedError(Exception):
    """At a step of section 5; `alarm`: its issuer has said two things."""

    def __init__(self, step: int | None, why: str, *, alarm: bool = False) -> None:
        super().__init__(f"step {step}: {why}")
        self.step = step
        self.alarm = alarm


def require(condition: bool, step: int | None, why: str, *, alarm: bool = False) -> None:
    if not condition:
        raise RefusedError(step, why, alarm=alarm)


@dataclass
class Site:
    """As in site.json."""

    said: dict[str, Any]
    by_key: dict[bytes, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_key = {
            hashlib.sha256(bytes.fromhex(each["public_key_der"])).digest(): each for each in self.said["issuers"]
        }

    def resolved(self, wanted: list[str]) -> set[str]:
        """Device ids; an empty class gives none of them, which `missing` finds."""
        found: set[str] = set()
        for each in wanted:
            found.update(self.said["classes"].get(each[6:], []) if each.startswith("class:") else [each])
        return found

    def address(self, audience: str, wanted: list[str], step: int | None) -> None:
        """Step 6."""
        here = [self.said["gateway_id"], *(f"zone:{zone}" for zone in self.said["zones"])]
        require(audience in here, step, "another audience")
        for each in wanted:
            require(not each.startswith("class:") or bool(self.said["classes"].get(each[6:])), step, "an empty class")
        require(self.resolved(wanted) <= set(self.said["devices"]), step, "a device that is not here")

    def signers(self, claims: list[Signature], issuer: str, step: int) -> list[dict[str, Any]]:
        """Step 3."""
        found = []
        for each in claims:
            entry = self.by_key.get(each.key_id)
            require(entry is not None, step, "no key of the list")
            assert entry is not None
            require(entry["algorithm"] == each.algorithm, step, "algorithm")
            try:
                evidence.check_signature(
                    bytes.fromhex(entry["public_key_der"]), each.algorithm, each.message, each.signature
                )
            except (InvalidSignature, evidence.RefusedError):
                raise RefusedError(step, "signature") from None
            found.append(entry)
        require(len(found) == 1 or {e["role"] for e in found} == {"operational", "governance"}, step, "roles")
        require(self.named(found)["issuer"] == issuer, step, "issuer")
        return found

    @staticmethod
    def named(signers: list[dict[str, Any]]) -> dict[str, Any]:
        """Whose name the body has: of two, the operational one's."""
        return next((each for each in signers if each["role"] == "operational"), signers[0])

    def reach(self, entry: dict[str, Any], audience: str, wanted: list[str], step: int) -> None:
        """Step 9, the first of it."""
        rights = entry["targets"]
        if "*" in rights or audience in rights or self.said["gateway_id"] in rights:
            return
        of_classes = {
            device for kind, members in self.said["classes"].items() if f"class:{kind}" in rights for device in members
        }
        devices = self.resolved(wanted)
        require(bool(devices) and devices <= of_classes | set(rights), step, "a device beyond its rights")

    @property
    def most_wh(self) -> int:
        return min(MOST_WH, 4 * int(self.said["site_rating_w"]))


@dataclass
class Memory:
    """What a gateway remembers from message to message."""

    known: set[bytes] = field(default_factory=set)
    windows: dict[tuple[bytes, str], tuple[int, set[int]]] = field(default_factory=dict)
    """By key and audience: the newest epoch, and the sequences used in it."""
    numbers: set[tuple[bytes, str, int, int]] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    ordered: dict[str, tuple[int, int]] = field(default_factory=dict)
    """All of the vectors come within one day."""


@dataclass(frozen=True)
class Verdict:
    verdict: str
    about: bytes | None
    step: int | None = None
    alarm: bool = False


UNSIGNED = ""


def judge(message: dict[str, Any], site: Site, memory: Memory) -> Verdict:
    """Section 5, over a message as the vectors have it."""
    command_id, authorization = message["command_id"], bytes.fromhex(message["authorization"])
    if not command_id and not authorization:
        return Verdict("none", None)
    came = message_hash(message)
    about = came
    try:
        require(0 < len(command_id) <= 255, 1, "command_id")
        if not authorization:
            return unsigned(message, came, site, memory)
        try:
            encoded, claims = signed_body(authorization, TYP)
        except Exception as error:
            raise RefusedError(2, f"authorization: {error}") from error
        body = body_of(encoded)
        require(body is not None, 2, "body")
        assert body is not None
        digest = hashlib.sha256(encoded).digest()
        if digest in memory.known:
            return Verdict("again", digest)
        signers = site.signers(claims, body.issuer, 3)
        require(
            message["type"] == body.type
            and message["power_limit_kw_bits"] == power_bits(body)
            and message["price_per_kwh_cents_bits"] == price_bits(body)
            and message["valid_until_timestamp_us"] == body.end_us
            and bytes.fromhex(message["command_hash"]) == digest,
            4,
            "plain fields",
        )
        key_id = bytes.fromhex(site.named(signers)["key_id"])
        number = key_id, body.audience, body.epoch, body.sequence
        twice = number in memory.numbers
        require(twice or fresh(memory, *number), 5, "number")
        about = digest
        memory.known.add(digest)
        site.address(body.audience, body.targets, 6)
        require(not twice, 7, "another command has this number", alarm=True)
        require(command_id not in memory.ids, 7, "another command has this id", alarm=True)
        now_us = site.said["now_us"]
        in_time(body.end_us, now_us, 8)
        require(all(now_us < each["expires_us"] for each in signers), 8, "rights that have expired")
        require(now_us < site.said["trust_list_expires_us"] or body.restrictive, 8, "an expired list")
        for each in signers:
            site.reach(each, body.audience, body.targets, 9)
            require(body.type in each["types"], 9, "type")
            require(body.mode != 0 or body.power_w <= each["highest_power_w"], 9, "power")
            require(body.priority >= each["highest_priority"], 9, "priority")
        if len(signers) == 1:
            within_value(body, body.issuer, site, memory, 10)
        memory.numbers.add(number)
        use(memory, *number)
        admit(body, body.issuer, command_id, memory)
    except RefusedError as error:
        return Verdict("refused", about, error.step, error.alarm)
    return Verdict("admitted", about)


def fresh(memory: Memory, key_id: bytes, audience: str, epoch: int, sequence: int) -> bool:
    newest, used = memory.windows.get((key_id, audience), (0, set()))
    if epoch != newest:
        return epoch > newest
    highest = max(used, default=-1)
    return sequence > highest or (sequence not in used and highest - sequence < WINDOW)


def use(memory: Memory, key_id: bytes, audience: str, epoch: int, sequence: int) -> None:
    newest, used = memory.windows.get((key_id, audience), (0, set()))
    memory.windows[key_id, audience] = epoch, {*(used if epoch == newest else ()), sequence}


def in_time(end_us: int, now_us: int, step: int | None) -> None:
    require(now_us < end_us <= now_us + 7 * DAY_US, step, "time")


def within_value(body: Body, issuer: str, site: Site, memory: Memory, step: int | None) -> None:
    """Step 10."""
    if body.restrictive:
        return
    energy_wh, micro = (a + b for a, b in zip(body.ordered(), memory.ordered.get(issuer, (0, 0)), strict=True))
    require(energy_wh <= site.most_wh, step, "energy")
    require(body.price is None or micro <= MOST_MICRO, step, "worth")


def admit(body: Body, issuer: str, command_id: str, memory: Memory) -> None:
    memory.ids.add(command_id)
    energy_wh, micro = body.ordered()
    before = memory.ordered.get(issuer, (0, 0))
    memory.ordered[issuer] = before[0] + energy_wh, before[1] + micro


def unsigned(message: dict[str, Any], came: bytes, site: Site, memory: Memory) -> Verdict:
    """Section 5, unsigned messages."""
    if came in memory.known:
        return Verdict("again", came)
    type_, now_us, stream = message["type"], site.said["now_us"], message["stream"]
    require(type_ in (0, 1, 2, 3), None, "type")
    kw, cents = (
        struct.unpack(">f", bytes.fromhex(message[name]))[0]
        for name in ("power_limit_kw_bits", "price_per_kwh_cents_bits")
    )
    watts = 0 if type_ == IDLE else rounded(kw, 1000, 10**9)
    micro = rounded(cents, 10_000, 10**12)
    require(message["valid_until_timestamp_us"] > 0, None, "no end")
    in_time(message["valid_until_timestamp_us"], now_us, None)
    wanted = [] if stream is None else [stream]
    money = [micro, "XXX"] if micro else None
    body = Body(
        site.said["gateway_id"], wanted, 2 if type_ == CURTAIL else 0, 1, type_, watts, None, now_us,
        message["valid_until_timestamp_us"], money, UNSIGNED, 0, 0, 0,
    )  # fmt: skip
    obeyed = site.said["unsigned_commands"]
    require(obeyed == "all" or (obeyed == "restrictive" and body.restrictive), None, "unsigned")
    require(message["command_id"] not in memory.ids, None, "another command has this id", alarm=True)
    site.address(body.audience, wanted, None)
    within_value(body, UNSIGNED, site, memory, None)
    memory.known.add(came)
    admit(body, UNSIGNED, message["command_id"], memory)
    return Verdict("admitted", came)


def rounded(value: float, factor: int, most: int) -> int:
    require(math.isfinite(value) and value >= 0, None, "no number to act on")
    number = round(value * factor)
    require(number <= most, None, "beyond anything that can be meant")
    return number


def float_of(bits: str) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(bits))[0]
    return value
