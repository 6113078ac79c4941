"""The cases behind proto/vectors/channels: states, what a platform rules on proposals and questions, and windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from agent.evidence import cbor, cose, merkle, statements
from agent.evidence.statements import SettlementWindow
from agent.ledger.settle import read_window, successor
from agent.ledger.state import ChannelState, ChannelTerms, SignedState
from agent.measure.reading import Quality
from hil_tests import evidence_cases as made
from hil_tests.evidence_cases import DEVICE_KEY, P256_ORDER, PLATFORM_KEY, STRANGER_KEY, Json, TestKey

TERMS: Final = ChannelTerms(
    gateway_id=made.GATEWAY, device_id="battery-1", chain_id=31337, contract=bytes([1]) * 20,
    participant=bytes([2]) * 20, counterparty=bytes([3]) * 20, agreement_hash=bytes([4]) * 32,
)  # fmt: skip
WINDOW_US: Final = 900_000_000


def window(number: int, *, incarnation: int = 1, **changes: object) -> bytes:
    """The statement of the device's window with this number, from 0."""
    whole = SettlementWindow(
        device_id=TERMS.device_id, incarnation=incarnation, window_start_us=made.START_US + number * WINDOW_US,
        window_end_us=made.START_US + (number + 1) * WINDOW_US, revision=0, import_wh=100 + number, export_wh=30,
        net_energy_wh=70 + number, first_sequence=None, last_sequence=None, reading_count=0,
        readings_root=merkle.EMPTY_ROOT, meter_epoch=1, quality=Quality.GOOD, command_hashes=(),
    )  # fmt: skip
    return statements.encode(replace(whole, **changes))  # type: ignore[arg-type]  # by name


def state(before: ChannelState | None, added: list[bytes], *, incarnation: int = 1, version: int = 1) -> ChannelState:
    """The one that follows."""
    return successor(
        before, [read_window(each, TERMS.device_id) for each in added], terms=TERMS, incarnation=incarnation,
        version=version, device_key=DEVICE_KEY.verify_key,
    )  # fmt: skip


def site() -> Json:
    """What both sides know."""
    return {
        "warning": "The secrets are in evidence/keys.json: never trust these keys outside tests.",
        "gateway_id": TERMS.gateway_id,
        "device_id": TERMS.device_id,
        "chain_id": TERMS.chain_id,
        "contract": TERMS.contract.hex(),
        "participant": TERMS.participant.hex(),
        "counterparty": TERMS.counterparty.hex(),
        "agreement_hash": TERMS.agreement_hash.hex(),
        "channel_id": TERMS.channel_id.hex(),
        "device_algorithm": DEVICE_KEY.algorithm,
        "device_key_der": DEVICE_KEY.public_key_der.hex(),
        "platform_algorithm": PLATFORM_KEY.algorithm,
        "platform_key_der": PLATFORM_KEY.public_key_der.hex(),
    }


WINDOWS: Final = [window(0), window(1), window(2, quality=Quality.ESTIMATED, meter_epoch=2)]
FIRST: Final = state(None, WINDOWS[:1])
SECOND: Final = state(FIRST, WINDOWS[1:], version=2)


def states() -> Iterator[Json]:
    """Each by itself."""
    most = (1 << 63) - 1
    for name, one in (
        ("a first state", FIRST),
        ("one that follows", SECOND),
        ("more export than import", replace(SECOND, import_wh=0, net_wh=-SECOND.export_wh)),
        ("the last one", replace(SECOND, final=True)),
        ("a key on secp256k1", replace(SECOND, algorithm=cose.ES256K)),
        ("numbers as large as may be", replace(
            SECOND, chain_id=most, incarnation=most, version=most, window_end_us=most, import_wh=most, export_wh=0,
            net_wh=most, meter_epoch=(1 << 32) - 1, quality=Quality((1 << 11) - 1),
        )),
    ):  # fmt: skip
        yield {"name": name, "valid": True, "state": one.encode().hex(), "digest": one.digest.hex()}
    good = cbor.decode(SECOND.encode(), what="state")
    assert isinstance(good, list)
    for name, place, value in (
        ("unknown version", 0, 2),
        ("version as a boolean", 0, True),
        ("chain 0", 1, 0),
        ("contract of 32 bytes", 2, bytes(32)),
        ("channel id of 20 bytes", 3, bytes(20)),
        ("participant as text", 4, "0x02"),
        ("agreement hash missing", 6, None),
        ("incarnation 0", 7, 0),
        ("version 0 of the state", 8, 0),
        ("short previous hash", 9, bytes(31)),
        ("ends as it starts", 11, SECOND.window_start_us),
        ("ends before it starts", 11, SECOND.window_start_us - 1),
        ("negative import", 12, -1),
        ("net that is not the difference", 14, SECOND.net_wh + 1),
        ("meter epoch beyond 32 bits", 15, 1 << 32),
        ("quality beyond 32 bits", 17, 1 << 32),
        ("final as a number", 18, 0),
        ("algorithm beyond 32 bits", 19, 1 << 31),
        ("algorithm below 32 bits", 19, -(1 << 31) - 1),
        ("short key id", 20, bytes(20)),
    ):
        yield {"name": name, "valid": False, "state": cbor.encode([*good[:place], value, *good[place + 1 :]]).hex()}
    encoded = SECOND.encode()
    for name, wrong in (
        ("empty", b""),
        ("cut short", encoded[:-1]),
        ("byte after the end", encoded + b"\x00"),
        ("one field too many", cbor.encode([*good, 0])),
        ("one field missing", cbor.encode(good[:-1])),
        ("longer integer than needed", encoded[:1] + b"\x18\x01" + encoded[2:]),
        ("a map", cbor.encode({1: 1})),
    ):
        yield {"name": name, "valid": False, "state": wrong.hex()}


def signed(one: ChannelState, key: TestKey = DEVICE_KEY) -> SignedState:
    """By both."""
    return SignedState(one, key.sign_digest(one.digest), PLATFORM_KEY.sign_digest(one.digest))


def proposals() -> Iterator[Json]:
    """A state that is proposed to a platform that holds another, and has windows: what it rules."""

    def one(
        name: str, ruling: str, proposed: ChannelState | bytes, *, held: ChannelState | None = FIRST,
        windows: list[bytes] = WINDOWS, key: TestKey = DEVICE_KEY, signature: bytes | None = None,
    ) -> Json:  # fmt: skip
        encoded = proposed if isinstance(proposed, bytes) else proposed.encode()
        if signature is None:
            signature = bytes(64) if isinstance(proposed, bytes) else key.sign_digest(proposed.digest)
        return {
            "name": name, "ruling": ruling, "held": None if held is None else held.encode().hex(),
            "state": encoded.hex(), "gateway_signature": signature.hex(), "windows": [each.hex() for each in windows],
        }  # fmt: skip

    good = DEVICE_KEY.sign_digest(SECOND.digest)
    high = good[:32] + (P256_ORDER - int.from_bytes(good[32:])).to_bytes(32)
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    end = replace(FIRST, final=True)
    third = [window(2), window(3)]
    anew = [window(1, incarnation=5, import_wh=7, net_energy_wh=-23), window(2, incarnation=5)]
    wide = window(1, window_end_us=made.START_US + 3 * WINDOW_US)
    restored = state(FIRST, anew, incarnation=5, version=2)
    yield one("a first state", "countersign", FIRST, held=None)
    yield one("one that follows", "countersign", SECOND)
    yield one("the last one", "countersign", replace(SECOND, final=True))
    yield one("versions may be skipped", "countersign", state(FIRST, WINDOWS[1:], version=9))
    yield one("a window that was sealed twice", "countersign", SECOND, windows=[*WINDOWS, *WINDOWS])
    yield one("windows in another order", "countersign", SECOND, windows=WINDOWS[::-1])
    yield one("windows beyond it", "countersign", SECOND, windows=[*WINDOWS, window(3)])
    yield one("a time without a window between two", "countersign", state(FIRST, third, version=2),
              windows=[WINDOWS[0], *third])  # fmt: skip
    yield one("a life after a restore closes the time anew", "countersign", restored, windows=[*WINDOWS, *anew])
    yield one("the state that is held", "repeat", FIRST)
    yield one("the same name and another state", "fork", replace(FIRST, quality=Quality.ESTIMATED))
    yield one("its last window is not there yet", "wait", SECOND, windows=WINDOWS[:2])
    yield one("no window is there yet", "wait", SECOND, windows=WINDOWS[:1])
    yield one("garbage", "refuse", b"\xff")
    yield one("another key", "refuse", SECOND, key=STRANGER_KEY)
    yield one("a signature with a flipped bit", "refuse", SECOND, signature=flipped)
    yield one("a signature with a high s", "refuse", SECOND, signature=high)
    yield one("a signature of the message and not of the digest", "refuse", SECOND,
              signature=DEVICE_KEY.sign(SECOND.digest))  # fmt: skip
    yield one("no signature", "refuse", SECOND, signature=b"")
    yield one("version of before", "refuse", replace(SECOND, version=1, incarnation=2))
    yield one("an earlier incarnation", "refuse", replace(SECOND, incarnation=1),
              held=replace(FIRST, incarnation=2))  # fmt: skip
    yield one("after the last one", "refuse", state(end, WINDOWS[1:], version=2), held=end)
    yield one("a window is left out", "refuse", state(FIRST, WINDOWS[2:], version=2))
    yield one("what the life before the restore closed", "refuse", SECOND, windows=[*WINDOWS, *anew])
    yield one("both lives of one time", "refuse",
              replace(restored, windows_root=merkle.root([merkle.leaf_hash(w) for w in [*WINDOWS[1:], *anew]])),
              windows=[*WINDOWS, *anew])  # fmt: skip
    yield one("windows that overlap", "refuse", SECOND, windows=[*WINDOWS, wide])
    for name, changes in (
        ("another channel", {"channel_id": bytes(32)}),
        ("another chain", {"chain_id": 1}),
        ("another contract", {"contract": bytes(20)}),
        ("another participant", {"participant": bytes(20)}),
        ("another counterparty", {"counterparty": bytes(20)}),
        ("another agreement", {"agreement_hash": bytes(32)}),
        ("another key id", {"key_id": bytes(32)}),
        ("another algorithm", {"algorithm": cose.ES256K}),
        ("more import", {"import_wh": SECOND.import_wh + 1, "net_wh": SECOND.net_wh + 1}),
        ("less export", {"export_wh": SECOND.export_wh - 1, "net_wh": SECOND.net_wh + 1}),
        ("another root", {"windows_root": bytes(32)}),
        ("quality better than its windows", {"quality": Quality.GOOD}),
        ("the meter epoch of its first window", {"meter_epoch": 1}),
        ("no previous", {"previous_hash": bytes(32)}),
        ("a later start", {"window_start_us": SECOND.window_start_us + 1}),
        ("an earlier start", {"window_start_us": FIRST.window_start_us}),
    ):
        yield one(name, "refuse", replace(SECOND, **changes))


def questions() -> Iterator[Json]:
    """What a gateway presents when it asks: whether the platform takes it back (null: it does not hold)."""
    newer = signed(SECOND)
    for name, held, presented, takes in (
        ("nothing", FIRST, None, False),
        ("what is held", FIRST, signed(FIRST), False),
        ("an older one", SECOND, signed(FIRST), False),
        ("a newer one that the platform signed, and lost", FIRST, newer, True),
        ("one that the platform signed, which has lost all", None, newer, True),
        ("a newer one without the platform's signature", FIRST, replace(newer, platform_signature=b""), False),
        ("a newer one with a signature that is not the platform's", FIRST,
         replace(newer, platform_signature=STRANGER_KEY.sign_digest(SECOND.digest)), None),
        ("a newer one with a signature that is not the gateway's", FIRST, signed(SECOND, STRANGER_KEY), None),
        ("a newer one of other terms", FIRST, signed(replace(SECOND, channel_id=bytes(32))), None),
    ):  # fmt: skip
        shown = None
        if presented is not None:
            shown = {
                "state": presented.state.encode().hex(),
                "gateway_signature": presented.gateway_signature.hex(),
                "platform_signature": presented.platform_signature.hex(),
            }
        yield {
            "name": name,
            "held": None if held is None else held.encode().hex(),
            "presented": dict(shown) if shown else None,
            "takes_back": takes,
        }
