"""proto/vectors/commands: the files are what the generator makes, and the gateway judges as they say.

The identity and the renderings are also computed here from proto/COMMANDS.md alone, with cbor2 and hashlib.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import cbor2
import pytest

from agent.config import UnsignedCommands
from agent.control.admission import Admitted, Nothing, Policy, Refused, judge
from agent.control.book import Book
from agent.control.command import decode_body, encode_body
from agent.control.errors import CommandFormatError
from agent.control.order import Now
from agent.evidence.cose import VerifyKey
from agent.identity.trust import IssuerRights, Role, TrustList
from hil_tests.generate_command_vectors import FOLDER, files
from proto.energysettlement.v1.device_pb2 import GridCommand


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


SITE = _read("site.json")
BODIES = _read("bodies.json")
MESSAGES = _read("messages.json")
VERDICTS = {"admitted": Admitted, "refused": Refused, "none": Nothing}


def _float(bits: str) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(bits))[0]
    return value


def _trust_list() -> TrustList:
    return TrustList(
        version=1,
        issued_us=1,
        expires_us=2**53,
        issuers=tuple(
            IssuerRights(
                issuer=entry["issuer"],
                key=VerifyKey(entry["algorithm"], bytes.fromhex(entry["public_key_der"])),
                role=Role[entry["role"].upper()],
                types=frozenset(entry["types"]),
                targets=tuple(entry["targets"]),
                highest_power_w=entry["highest_power_w"],
                highest_priority=entry["highest_priority"],
                expires_us=2**53,
            )
            for entry in SITE["issuers"]
        ),
    )


POLICY = Policy(
    gateway_id=SITE["gateway_id"],
    zones=frozenset(SITE["zones"]),
    unsigned=UnsignedCommands(SITE["unsigned_commands"]),
    controllable=frozenset(SITE["devices"]),
    site_rating_w=SITE["site_rating_w"],
    classes={kind: frozenset(members) for kind, members in SITE["classes"].items()},
)


def test_the_files_are_what_the_generator_makes() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in Path(FOLDER).iterdir()} == files()


@pytest.mark.parametrize("case", BODIES, ids=lambda case: case["name"])
def test_a_body_is_taken_or_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    if case["valid"]:
        assert encode_body(decode_body(body)) == body
        elements = cbor2.loads(body)
        assert hashlib.sha256(body).hexdigest() == case["command_hash"]
        assert struct.pack(">f", elements[6] / 1000).hex() == case["power_limit_kw_bits"]
        cents = 0.0 if elements[10] is None else elements[10][0] / 10_000
        assert struct.pack(">f", cents).hex() == case["price_per_kwh_cents_bits"]
    else:
        with pytest.raises(CommandFormatError):
            decode_body(body)


@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: case["name"] or "without an id")
def test_a_message_is_judged_as_the_vector_says(case: dict[str, Any]) -> None:
    message = GridCommand(
        command_id=case["command_id"],
        power_limit_kw=_float(case["power_limit_kw_bits"]),
        price_per_kwh_cents=_float(case["price_per_kwh_cents_bits"]),
        valid_until_timestamp_us=case["valid_until_timestamp_us"],
        command_hash=bytes.fromhex(case["command_hash"]),
        authorization=bytes.fromhex(case["authorization"]),
    )
    message.type = case["type"]
    decision = judge(message, case["stream"], POLICY, _trust_list(), Book(), Now(wall_us=SITE["now_us"]))
    assert type(decision) is VERDICTS[case["verdict"]], decision


@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: case["name"] or "without an id")
def test_the_hash_of_a_message_is_computed_as_the_specification_says(case: dict[str, Any]) -> None:
    authorization = bytes.fromhex(case["authorization"])
    fields = [
        0, case["command_id"], case["stream"], case["type"], bytes.fromhex(case["power_limit_kw_bits"]),
        bytes.fromhex(case["price_per_kwh_cents_bits"]), case["valid_until_timestamp_us"],
        bytes.fromhex(case["command_hash"]), hashlib.sha256(authorization).digest() if authorization else None,
    ]  # fmt: skip
    assert hashlib.sha256(cbor2.dumps(fields)).hexdigest() == case["message_hash"]
