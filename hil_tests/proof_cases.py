"""The cases behind proto/vectors/evidence/proofs.json: a reading's way up to a channel state, and every step wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Final

from agent.evidence import batch, cbor, cose, merkle, statements
from agent.evidence.proof import ChannelPart, Path, ProofFile, Proven, WindowPart, path_in
from agent.evidence.statements import SettlementWindow, Statement
from agent.ledger.state import NO_PREVIOUS, ChannelState, ChannelTerms, SignedState
from agent.measure.reading import Quality
from hil_tests import evidence_cases as made
from hil_tests.evidence_cases import Case, Json, TestKey

READINGS: Final = [statements.encode(made.reading(n)) for n in range(1, 6)]
MIDDLE: Final = 2
"""Index of the reading that is proven."""
WINDOW_US: Final = 900_000_000
WINDOW: Final = SettlementWindow(
    device_id="battery-1", incarnation=1, window_start_us=made.START_US, window_end_us=made.START_US + WINDOW_US,
    revision=0, import_wh=0, export_wh=5, net_energy_wh=-5, first_sequence=1, last_sequence=5, reading_count=5,
    readings_root=merkle.root([merkle.leaf_hash(leaf) for leaf in READINGS]), meter_epoch=1, quality=Quality.GOOD,
    command_hashes=(),
)  # fmt: skip
EMPTY: Final = dataclasses.replace(
    WINDOW, window_start_us=WINDOW.window_end_us, window_end_us=WINDOW.window_end_us + WINDOW_US, export_wh=0,
    net_energy_wh=0, first_sequence=None, last_sequence=None, reading_count=0, readings_root=merkle.root([]),
    quality=Quality.ESTIMATED,
)  # fmt: skip
WINDOWS: Final = [statements.encode(WINDOW), statements.encode(EMPTY)]
TERMS: Final = ChannelTerms(
    gateway_id=made.GATEWAY, device_id="battery-1", chain_id=1, contract=bytes([1]) * 20, participant=bytes([2]) * 20,
    counterparty=bytes([3]) * 20, agreement_hash=bytes([4]) * 32,
)  # fmt: skip
STATE: Final = ChannelState(
    chain_id=TERMS.chain_id, contract=TERMS.contract, channel_id=TERMS.channel_id, participant=TERMS.participant,
    counterparty=TERMS.counterparty, agreement_hash=TERMS.agreement_hash, incarnation=1, version=7,
    previous_hash=NO_PREVIOUS, window_start_us=WINDOW.window_start_us, window_end_us=EMPTY.window_end_us, import_wh=40,
    export_wh=105, net_wh=-65, meter_epoch=1, windows_root=merkle.root([merkle.leaf_hash(w) for w in WINDOWS]),
    quality=Quality.ESTIMATED, final=False, algorithm=cose.ES256, key_id=made.DEVICE_KEY.key_id,
)  # fmt: skip


def signed(state: ChannelState = STATE, key: TestKey = made.DEVICE_KEY, by: TestKey = made.PLATFORM_KEY) -> SignedState:
    return SignedState(state, key.sign_digest(state.digest), by.sign_digest(state.digest))


def proven(of: list[bytes], index: int, *, number: int = 1, gateway_id: str = made.GATEWAY) -> Proven:
    """A leaf of a batch with a sealing before these."""
    key = made.GATEWAY_KEY if gateway_id == made.GATEWAY else made.OTHER_KEY
    leaves = [statements.encode(made.sealing(number)), *of]
    sealed = made.make_batch(leaves, number=number, previous_root=_before(number), gateway_id=gateway_id, key=key)
    return Proven(sealed.leaves[index], batch.receipt(sealed, index))


def _before(number: int) -> bytes:
    return batch.FIRST_PREVIOUS_ROOT if number == 1 else bytes([number]) * 32


def window_part(window: Statement = WINDOW, path: Path | None = None, gateway_id: str = made.GATEWAY) -> WindowPart:
    sealed = proven([statements.encode(window)], 1, number=2, gateway_id=gateway_id)
    return WindowPart(sealed, path or path_in(READINGS, MIDDLE))


def channel_part(state: SignedState | None = None, path: Path | None = None, key: bytes | None = None) -> ChannelPart:
    der = made.DEVICE_KEY.public_key_der if key is None else key
    return ChannelPart((state or signed()).encode(), path or path_in(WINDOWS, 0), der)


WHOLE: Final = ProofFile(
    made.GATEWAY, (made.GATEWAY_KEY.public_key_der,), proven(READINGS, MIDDLE + 1), window_part(), channel_part()
)


def cases() -> Iterable[Case]:
    """Proofs under the keys of keys.json: those of the gateways, the platform's and the device's."""
    changed = dataclasses.replace

    def good(name: str, file: ProofFile) -> Case:
        state = None if file.channel is None else STATE.digest.hex()
        facts: dict[str, Json] = {"sequence": MIDDLE + 1, "in_window": file.window is not None, "state_digest": state}
        return Case(name, None, {"proof": file.encode()}, facts)

    def wrong(name: str, error: str, file: ProofFile) -> Case:
        return Case(name, error, {"proof": file.encode()})

    def raw(name: str, error: str, change: Callable[[list[cbor.Value]], None]) -> Case:
        fields = cbor.decode(WHOLE.encode(), what="proof")
        assert isinstance(fields, list)
        change(fields)
        return Case(name, error, {"proof": cbor.encode(fields)})

    def put(place: int, value: cbor.Value) -> Callable[[list[cbor.Value]], None]:
        def change(fields: list[cbor.Value]) -> None:
            fields[place] = value

        return change

    def within(place: int, inner: int, value: cbor.Value) -> Callable[[list[cbor.Value]], None]:
        def change(fields: list[cbor.Value]) -> None:
            part = fields[place]
            assert isinstance(part, list)
            part[inner] = value

        return change

    yield good("a reading, its window, and the state that settles it", WHOLE)
    yield good("a reading and its window", changed(WHOLE, channel=None))
    yield good("a reading by itself", changed(WHOLE, window=None, channel=None))
    yield good("no keys in the file: they are a help only", changed(WHOLE, public_keys_der=()))
    encoded = WHOLE.encode()
    yield Case("empty", "malformed", {"proof": b""})
    yield Case("cut short", "malformed", {"proof": encoded[:-1]})
    yield Case("byte after the end", "malformed", {"proof": encoded + b"\x00"})
    yield raw("begins with another word", "malformed", put(0, "v2g-gateway/bundle"))
    yield raw("version is unknown", "unsupported", put(1, 2))
    yield raw("version is a boolean", "malformed", put(1, True))
    yield raw("gateway id is a byte string", "malformed", put(2, b"x"))
    yield raw("a key is text", "malformed", put(3, ["key"]))
    yield raw("a field too few", "malformed", lambda fields: fields.__delitem__(-1))
    yield raw("a field too many", "malformed", lambda fields: fields.append(0))
    yield raw("a reading without its receipt", "malformed", put(4, [READINGS[MIDDLE]]))
    yield raw("no reading", "malformed", put(4, None))
    yield raw("a window without its path", "malformed", within(5, 2, None))
    yield raw("a path with a field more", "malformed", within(5, 2, [5, 2, [], 0]))
    yield raw("tree size of a path is 0", "malformed", within(5, 2, [0, 0, []]))
    yield raw("an index is negative", "malformed", within(5, 2, [5, -1, []]))
    yield raw("a sibling of 31 bytes", "malformed", within(5, 2, [5, 2, [bytes(31)]]))
    yield raw("a device key that is text", "malformed", within(6, 2, "key"))
    yield wrong("a channel state without its window", "malformed", changed(WHOLE, window=None))

    first = proven(READINGS, MIDDLE)
    yield wrong(
        "receipt of another reading", "signature", changed(WHOLE, reading=changed(WHOLE.reading, receipt=first.receipt))
    )
    flipped = changed(WHOLE.reading, statement=made.flip(WHOLE.reading.statement, 20))
    yield wrong("bit flipped in the reading", "signature", changed(WHOLE, reading=flipped))
    yield wrong("a window that is said to be a reading", "proof",
                ProofFile(made.GATEWAY, (), proven(WINDOWS, 1), None, None))  # fmt: skip
    elsewhere = proven(READINGS, MIDDLE + 1, gateway_id=made.OTHER_GATEWAY)
    yield wrong("a reading of another gateway, trusted too", "proof", changed(WHOLE, reading=elsewhere))
    yield wrong("another gateway is named", "proof", changed(WHOLE, gateway_id=made.OTHER_GATEWAY))

    def window(name: str, error: str, part: WindowPart) -> Case:
        return wrong(f"window: {name}", error, changed(WHOLE, window=part, channel=None))

    part = window_part()
    yield window("of another gateway, trusted too", "proof", window_part(gateway_id=made.OTHER_GATEWAY))
    flipped_window = changed(part.window, statement=made.flip(part.window.statement, 15))
    yield window("bit flipped in it", "signature", changed(part, window=flipped_window))
    yield window("is none", "proof", window_part(made.reading(9)))
    yield window("of another device", "proof", window_part(changed(WINDOW, device_id="battery-2")))
    yield window("begins after the reading", "proof", window_part(changed(WINDOW, first_sequence=4)))
    yield window("ends before the reading", "proof", window_part(changed(WINDOW, last_sequence=2)))
    yield window("without readings", "proof", window_part(EMPTY))
    yield window("tree is larger than the signed count", "proof", window_part(changed(WINDOW, reading_count=4)))
    path = path_in(READINGS, MIDDLE)
    yield window("path of another reading", "proof", window_part(path=path_in(READINGS, 1)))
    yield window("path too short", "proof", window_part(path=changed(path, siblings=path.siblings[:-1])))
    yield window("path too long", "proof", window_part(path=changed(path, siblings=(*path.siblings, bytes(32)))))
    yield window("index outside the tree", "proof", window_part(path=changed(path, index=5)))
    nearest, *above = path.siblings
    yield window("bit flipped in the path", "proof",
                 window_part(path=changed(path, siblings=(made.flip(nearest, 0), *above))))  # fmt: skip
    yield window("root over other readings", "proof", window_part(changed(WINDOW, readings_root=bytes(32))))

    def channel(name: str, error: str, part: ChannelPart) -> Case:
        return wrong(f"channel: {name}", error, changed(WHOLE, channel=part))

    def stating(name: str, error: str, state: ChannelState) -> Case:
        return channel(name, error, channel_part(signed(state)))

    yield channel("path of another window", "proof", channel_part(path=path_in(WINDOWS, 1)))
    yield channel("path too long", "proof", channel_part(path=Path(2, 0, (*path_in(WINDOWS, 0).siblings, bytes(32)))))
    yield stating("root over other windows", "proof", changed(STATE, windows_root=bytes(32)))
    later = changed(STATE, window_start_us=STATE.window_start_us + 1)
    yield stating("begins within the window", "proof", later)
    yield stating("ends within the window", "proof", changed(STATE, window_end_us=WINDOW.window_end_us - 1))
    theirs = dataclasses.replace(TERMS, device_id="battery-2").channel_id
    yield stating("of another device's channel", "proof", changed(STATE, channel_id=theirs))
    elsewhere_too = dataclasses.replace(TERMS, gateway_id=made.OTHER_GATEWAY).channel_id
    yield stating("of another gateway's channel", "proof", changed(STATE, channel_id=elsewhere_too))
    yield stating("net is not import less export", "malformed", changed(STATE, net_wh=-64))
    yield stating("ends before it begins", "malformed", changed(STATE, window_end_us=STATE.window_start_us))
    yield stating("algorithm signs no states", "signature", changed(STATE, algorithm=cose.ED25519))
    yield channel("signed by another key than the device's", "signature", channel_part(signed(key=made.STRANGER_KEY)))
    yield channel("countersigned by another key than the platform's", "signature",
                  channel_part(signed(by=made.STRANGER_KEY)))  # fmt: skip
    whole = signed()
    high = whole.gateway_signature[:32] + (made.P256_ORDER - int.from_bytes(whole.gateway_signature[32:])).to_bytes(32)
    yield channel(
        "the other s, which contracts refuse", "signature", channel_part(changed(whole, gateway_signature=high))
    )
    yield channel("not countersigned", "signature", channel_part(changed(whole, platform_signature=b"")))
    other = made.STRANGER_KEY.public_key_der
    yield channel("the key in the file is not the one that the state names", "proof", channel_part(key=other))
    no_key = changed(STATE, key_id=cose.key_id_of(b"key"))
    yield channel("the key in the file is none", "malformed", channel_part(signed(no_key), key=b"key"))
    yield raw("channel: the state is none", "malformed", within(6, 0, b"\x80"))
