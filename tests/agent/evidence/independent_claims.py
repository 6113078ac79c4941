"""What statements claim of meters' signatures and of thinning, from proto/EVIDENCE.md sections 2 and 12 alone."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.agent.evidence.independent import Header, refuse_unless, root_of, sha256, statement


def signed_values(leaves: list[bytes]) -> None:
    """Section 2, signed meter values, for records of P-256 keys with signatures in DER and hexadecimal."""
    known: dict[bytes, tuple[list[Any], int | None]] = {}
    for leaf in leaves:
        value = statement(leaf)
        if value[0] == 7:
            known[sha256(leaf)] = value, record_milliwatt_hours(value)
        elif value[0] == 1 and value[1] == 3:
            registers: set[int | None] = set()
            for digest, verdict in value[17]:
                named, energy = known[digest]
                refuse_unless(named[2] == value[2] and named[4] == verdict, "reference")
                registers |= {energy} if verdict == 0 else set()
            refuse_unless(value[16] != 2 or (value[8] in registers and value[9] is None), "registers")


def record_milliwatt_hours(value: list[Any]) -> int | None:
    """The import register of a record, where its verdict is the one that is claimed."""
    verdict, record, key = value[4], value[7], value[8]
    if verdict == 1:
        return None
    text = record if record.startswith(b"OCMF|") else base64.b64decode(record, validate=True)
    _, signed, tail = text.split(b"|")
    try:
        refuse_unless(text.startswith(b"OCMF|"), "format")
        public = load_der_public_key(key)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(bytes.fromhex(json.loads(tail)["SD"]), signed, ec.ECDSA(hashes.SHA256()))
        holds = True
    except (InvalidSignature, KeyError):
        holds = False
    refuse_unless(holds == (verdict == 0), "verdict")
    return round(Decimal(str(json.loads(signed)["RD"][-1]["RV"])) * 10**6) if holds else None


def net_wh(imported: Any, exported: Any) -> int | None:
    return None if imported is None and exported is None else ((imported or 0) - (exported or 0)) // 1000


def thinned(run: list[tuple[Header, bytes, dict[int, bytes]]]) -> tuple[int, int]:
    """Section 12, over verified batches: readings that statements stand for, and their energy."""
    roots = {(header.incarnation, header.number): root for header, root, _ in run}
    said = {sha256(leaf): statement(leaf) for _, _, leaves in run for leaf in leaves.values()}
    found = {digest: value for digest, value in said.items() if value[0] == 8}
    points = {(v[2], v[3], v[5]): (v[10], net_wh(v[8], v[9])) for v in said.values() if v[0] == 1}
    for value in found.values():
        for incarnation, first, last, root in value[9]:
            at_hand = [roots.get((incarnation, number)) for number in range(first, last + 1)]
            known = [each for each in at_hand if each is not None]
            refuse_unless(len(known) < len(at_hand) or root_of(known) == root, "old roots")
        fine = found.get(value[13] or b"")
        same = (2, 3, 4, 5, 6, 10, 11, 12)
        refuse_unless(fine is None or all(fine[i] == value[i] for i in same), "replaced statement")
    replaced = {value[13] for value in found.values()}
    force = [value for digest, value in found.items() if digest not in replaced]
    taken: set[tuple[str, int, int]] = set()
    for value in force:
        for slot in value[14]:
            numbers = {(value[2], value[3], n) for n in range(slot[0], slot[0] + slot[1])}
            refuse_unless(not numbers & taken, "merged twice")
            taken |= numbers
            points[value[2], value[3], slot[0] + slot[1] - 1] = value[5], net_wh(slot[5], slot[6])
    for value in force:
        for slot in value[14]:
            before, after = points.get((value[2], value[3], slot[0] - 1)), net_wh(slot[5], slot[6])
            if before is not None and before[0] == value[5] and None not in (before[1], after) and not slot[10] & 192:
                refuse_unless((after or 0) - (before[1] or 0) == slot[4], "energy")
    return sum(value[10] for value in force), sum(value[12] for value in force)
