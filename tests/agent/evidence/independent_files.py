"""A verifier of bundles, extracts, JSON exports and proofs from proto/EVIDENCE.md sections 11, 13 and 14 alone.

It goes on where `independent` ends, and shares no code with agent/evidence or agent/ledger either. Keccak-256 comes
from pycryptodome: no hashlib has it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cbor2
from Crypto.Hash import keccak
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.agent.evidence import independent
from tests.agent.evidence.independent import RefusedError, Verifier, field, refuse_unless, sha256, statement, strict

ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp256k1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}
REFERENCE = "statement_hash verdict"
POINT = "device_id parent_id settled"
OLD = "incarnation first_number last_number roots_root"
SLOT = (
    "first_sequence reading_count first_us span_us net_energy_wh import_register_milliwatt_hours "
    "export_register_milliwatt_hours lowest_power_w highest_power_w state_of_charge_permille quality"
)
WORDS: dict[int, tuple[str, str, dict[str, str]]] = {
    0: ("sealing", "sealed_at_us clock_quality clock_error_bound_us", {}),
    1: (
        "reading",
        "device_id incarnation boot_id sequence timestamp_us net_energy_wh import_register_milliwatt_hours "
        "export_register_milliwatt_hours meter_epoch power_w voltage_millivolts state_of_charge_permille "
        "frequency_millihertz quality source signed_values",
        {"signed_values": REFERENCE},
    ),
    2: ("command_receipt", "command_hash command_id state timestamp_us reason delivered_energy_wh", {}),
    3: (
        "settlement_window",
        "device_id incarnation window_start_us window_end_us revision import_wh export_wh net_energy_wh first_sequence "
        "last_sequence reading_count readings_root meter_epoch quality command_hashes",
        {},
    ),
    4: ("attestation", "timestamp_us valid_until_us software_version software_digest metrology_digest quote", {}),
    5: ("alarm", "timestamp_us severity code subject text", {}),
    6: ("metering_tree", "timestamp_us points", {"points": POINT}),
    7: (
        "signed_meter_value",
        "device_id timestamp_us verdict reason encoding_method record key_der transaction_id context",
        {},
    ),
    8: (
        "thinning",
        "device_id incarnation boot_id meter_epoch source thinned_at_us slot_s old reading_count readings_root "
        "net_energy_wh replaces slots",
        {"old": OLD, "slots": SLOT},
    ),
}
"""Section 13: by kind, its name, the names of its fields in their order, and of arrays within."""


@dataclass
class Read:
    """What a file of evidence proves, and of what it is."""

    gateway_id: str
    numbers: list[int]
    scope: tuple[str, int, int] | None
    missing: int


def items(content: bytes) -> Iterator[bytes]:
    """The byte strings of a CBOR sequence."""
    at = 0
    while at < len(content):
        size = content[at] & 31
        refuse_unless(content[at] >> 5 == 2 and size <= 26, "no byte string")
        width = {24: 1, 25: 2, 26: 4}.get(size, 0)
        length = int.from_bytes(content[at + 1 : at + 1 + width]) if width else size
        refuse_unless(length <= 1 << 20 and at + 1 + width + length <= len(content), "length")
        item = content[at + 1 + width : at + 1 + width + length]
        refuse_unless(independent.head(2, length) + item == content[at : at + 1 + width + length], "not deterministic")
        at += 1 + width + length
        yield item


def head_size(content: bytes) -> int:
    """Of the first item: the shortest beginning that is one value."""
    file = io.BytesIO(content[:65_536])
    cbor2.CBORDecoder(file).decode()
    return file.tell()


def bundle(content: bytes, verifier: Verifier) -> Read:
    """Sections 11 and 13."""
    size = head_size(content)
    head = strict(content[:size])
    refuse_unless(isinstance(head, list) and head[0] == "v2g-gateway/bundle" and type(head[1]) is int, "head")
    refuse_unless(head[1] in (1, 2) and len(head) == 3 + head[1], "version")
    refuse_unless(isinstance(head[2], str) and all(isinstance(key, bytes) for key in head[3]), "gateway or keys")
    scope = None
    if head[1] == 2:
        device_id, from_us, to_us = head[4]
        field(device_id, "text")
        field(from_us, "count")
        field(to_us, "count")
        refuse_unless(from_us < to_us, "period")
        scope = device_id, from_us, to_us
    return batches(head[2], scope, list(items(content[size:])), verifier)


def batches(gateway_id: str, scope: tuple[str, int, int] | None, encoded: list[bytes], verifier: Verifier) -> Read:
    """Each batch by itself, then the chain or the order of an extract, then two contents (sections 2 and 7)."""
    run = [verifier.any_batch(each) for each in encoded]
    refuse_unless(all(header.gateway_id == gateway_id for header, _, _ in run), "gateway")
    places = [(header.incarnation, header.number) for header, _, _ in run]
    if scope is None:
        refuse_unless(independent.breaks_at([(header, root) for header, root, _ in run]) is None, "chain")
    else:
        refuse_unless(places == sorted(set(places)), "order")
    contents: dict[tuple[Any, ...], tuple[bytes, bytes]] = {}
    covered: dict[int, set[int]] = {}
    for _, _, leaves in run:
        for leaf in leaves.values():
            value = statement(leaf)
            if scope is not None and value[0] in (1, 3, 7, 8):
                refuse_unless(value[2] == scope[0], "another device")
            if value[0] == 1:
                name = value[2], value[3], value[5]
                refuse_unless(contents.setdefault(name, (value[4], sha256(leaf))) == (value[4], sha256(leaf)), "twice")
                covered.setdefault(value[3], set()).add(value[5])
            if value[0] == 8:
                for slot in value[14]:
                    covered.setdefault(value[3], set()).update(range(slot[0], slot[0] + slot[1]))
    missing = sum(max(there) - min(there) + 1 - len(there) for there in covered.values())
    return Read(gateway_id, [number for _, number in places], scope, missing if scope else 0)


def json_export(text: str, verifier: Verifier) -> Read:
    """Section 13, the words."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        refuse_unless(len({name for name, _ in pairs}) == len(pairs), "a name twice")
        return dict(pairs)

    said = json.loads(text, object_pairs_hook=once)
    names = {"format", "version", "gateway_id", "keys", "device_id", "from_us", "to_us", "batches"}
    refuse_unless(isinstance(said, dict) and set(said) == names, "fields")
    refuse_unless(said["format"] == "v2g-gateway/bundle", "format")
    refuse_unless(type(said["version"]) is int and said["version"] == 1, "version")
    scope = None
    if said["device_id"] is not None:
        field(said["device_id"], "text")
        field(said["from_us"], "count")
        field(said["to_us"], "count")
        refuse_unless(said["from_us"] < said["to_us"], "period")
        scope = said["device_id"], said["from_us"], said["to_us"]
    else:
        refuse_unless(said["from_us"] is None and said["to_us"] is None, "period")
    for key in said["keys"]:
        bytes.fromhex(key)
    encoded = []
    for entry in said["batches"]:
        batch = bytes.fromhex(entry["batch"])
        refuse_unless(
            json.dumps(in_words(batch, verifier), sort_keys=True) == json.dumps(entry, sort_keys=True), "words"
        )
        encoded.append(batch)
    return batches(said["gateway_id"], scope, encoded, verifier)


def in_words(batch: bytes, verifier: Verifier) -> dict[str, Any]:
    header, _, leaves = verifier.any_batch(batch)
    said = [{"index": index, **words(statement(leaf))} for index, leaf in leaves.items()]
    return {"incarnation": header.incarnation, "number": header.number, "statements": said, "batch": batch.hex()}


def words(value: list[Any]) -> dict[str, Any]:
    kind, names, arrays = WORDS[value[0]]

    def plain(name: str, item: Any) -> Any:
        if name in arrays:
            return [dict(zip(arrays[name].split(), map(plain_value, each), strict=True)) for each in item]
        if name == "quote":
            return dict(zip(("public", "message", "signature", "pcrs"), map(plain_value, item), strict=True))
        return plain_value(item)

    fields = zip(names.split(), value[2:], strict=value[:2] not in ([1, 1], [4, 1]))
    return {"kind": kind, **{name: plain(name, item) for name, item in fields}}


def plain_value(item: Any) -> Any:
    if isinstance(item, list):
        return [plain_value(each) for each in item]
    return item.hex() if isinstance(item, bytes) else item


def proof(encoded: bytes, verifier: Verifier, platform_key: bytes) -> tuple[int, bool, bytes | None]:
    """Section 14: sequence of the reading, whether its window is proven, and the digest of the state."""
    refuse_unless(len(encoded) <= 1 << 20, "size")
    magic, version, gateway_id, keys, reading, window, channel = strict(encoded)
    refuse_unless(magic == "v2g-gateway/proof" and type(version) is int and version == 1, "version")
    refuse_unless(isinstance(gateway_id, str) and all(isinstance(key, bytes) for key in keys), "gateway or keys")
    refuse_unless(channel is None or window is not None, "channel without window")
    leaf, receipt = reading
    verifier.receipt(receipt, leaf)
    refuse_unless(gateway_of(receipt) == gateway_id, "gateway")
    said = statement(leaf)
    refuse_unless(said[0] == 1, "no reading")
    if window is None:
        return said[5], False, None
    its, its_receipt, path = window
    verifier.receipt(its_receipt, its)
    refuse_unless(gateway_of(its_receipt) == gateway_id, "gateway")
    w = statement(its)
    refuse_unless(w[0] == 3 and w[2] == said[2], "no window of the device")
    first, last, count, readings_root = w[10], w[11], w[12], w[13]
    refuse_unless(first is not None and last is not None and first <= said[5] <= last, "sequence")
    size, index, siblings = checked_path(path)
    refuse_unless(size == count, "tree size")
    refuse_unless(independent.climb(leaf, index, size, siblings) == readings_root, "root of readings")
    if channel is None:
        return said[5], True, None
    signed, path, device_key = channel
    return said[5], True, state_digest(gateway_id, its, signed, path, device_key, platform_key)


def checked_path(path: Any) -> tuple[int, int, list[bytes]]:
    size, index, siblings = path
    field(size, "ordinal")
    field(index, "count")
    for sibling in siblings:
        field(sibling, "b32")
    return size, index, siblings


def gateway_of(receipt: bytes) -> str:
    return independent.header_of(independent.sign1_of(receipt)[0]).gateway_id


def state_digest(gateway_id: str, window: bytes, signed: bytes, path: Any, device_key: bytes, platform: bytes) -> bytes:
    """CHANNELS.md sections 3 to 5."""
    version, encoded, gateway_signature, platform_signature = strict(signed)
    refuse_unless(version == 1 and len(encoded) <= 4096, "version")
    state = strict(encoded)
    (format_version, chain, contract, channel, participant, counterparty, agreement) = state[:7]
    start, end, imported, exported, net = state[10:15]
    root, algorithm, key = state[16], state[19], state[20]
    refuse_unless(format_version == 1 and net == imported - exported and start < end, "state")
    w = statement(window)
    terms = ["v2g-gateway/channel", 1, gateway_id, w[2], chain, contract, participant, counterparty, agreement]
    refuse_unless(channel == sha256(independent.dump(terms, 0)), "terms")
    size, index, siblings = checked_path(path)
    refuse_unless(independent.climb(window, index, size, siblings) == root, "root of windows")
    refuse_unless(start <= w[4] and w[5] <= end, "times")
    refuse_unless(isinstance(device_key, bytes) and sha256(device_key) == key, "device key")

    digest = digest_of(state)
    check_low_s(device_key, algorithm, digest, gateway_signature)
    check_low_s(platform, -7, digest, platform_signature)
    return digest


def digest_of(state: list[Any]) -> bytes:
    """CHANNELS.md section 5: EIP-712, over a state as its CBOR has it."""
    (_, chain, contract, channel, participant, counterparty, agreement, incarnation, number, previous,
     start, end, imported, exported, net, epoch, root, quality, final, algorithm, key) = state  # fmt: skip

    def keccak256(*parts: bytes) -> bytes:
        return bytes(keccak.new(digest_bits=256, data=b"".join(parts)).digest())

    def word(value: int) -> bytes:
        return (value % (1 << 256)).to_bytes(32)

    domain = keccak256(
        keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
        keccak256(b"V2G Settlement Channel"), keccak256(b"1"), word(chain), bytes(12) + contract,
    )  # fmt: skip
    types = (
        b"ChannelState(bytes32 channelId,address participant,address counterparty,bytes32 agreementHash,uint64 "
        b"incarnation,uint64 version,bytes32 previousHash,uint64 windowStart,uint64 windowEnd,uint256 importWh,uint256 "
        b"exportWh,int256 netWh,uint32 meterEpoch,bytes32 windowsRoot,uint32 quality,bool isFinal,int32 algorithm,"
        b"bytes32 keyId)"
    )
    struct = keccak256(
        keccak256(types), channel, bytes(12) + participant, bytes(12) + counterparty, agreement, word(incarnation),
        word(number), previous, word(start), word(end), word(imported), word(exported), word(net), word(epoch), root,
        word(quality), word(final), word(algorithm), key,
    )  # fmt: skip
    return keccak256(b"\x19\x01", domain, struct)


def check_low_s(public_key_der: bytes, algorithm: int, digest: bytes, signature: bytes) -> None:
    public = load_der_public_key(public_key_der)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise RefusedError("curve")
    refuse_unless({-7: "secp256r1", -47: "secp256k1"}.get(algorithm) == public.curve.name, "algorithm")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    refuse_unless(len(signature) == 64 and s <= ORDERS[public.curve.name] // 2, "length or high s")
    public.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
