"""The cases behind proto/vectors/identity/logins.json: a token to log in with, and each way of being wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agent.evidence import cbor, cose
from agent.evidence.cose import HEADER_ALG, HEADER_KID, Sign1, to_be_signed
from agent.identity.login_token import AUD, CTI, EXP, IAT, ISS, SUB
from hil_tests.evidence_cases import START_US, Json, TestKey

KEY: Final = TestKey("uplink-tls", cose.ES256)
OTHER: Final = TestKey("uplink-tls of another gateway", cose.ES256)
KEYS: Final = (KEY, OTHER)
GATEWAY: Final = "did:v2g:zQmGateway"
AUDIENCE: Final = "https://ca.example/.well-known/est/gateways"
NOW_S: Final = START_US // 1_000_000
CLAIMS: Final[Mapping[int, cbor.Value]] = {
    ISS: GATEWAY, SUB: GATEWAY, AUD: AUDIENCE, EXP: NOW_S + 300, IAT: NOW_S, CTI: bytes(range(16)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoginCase:
    """A token, and the moment at which it is shown."""

    name: str
    token: bytes
    valid: bool = False
    now_s: int = NOW_S

    def json(self) -> Json:
        return {
            "name": self.name, "token": self.token.hex(), "public_key_der": KEY.public_key_der.hex(),
            "gateway_id": GATEWAY, "audience": AUDIENCE, "now_s": self.now_s, "valid": self.valid,
        }  # fmt: skip


def token(
    changes: Mapping[int, cbor.Value | None] | None = None,
    *,
    key: TestKey = KEY,
    kid: bytes = KEY.key_id,
    alg: int = cose.ES256,
) -> bytes:
    """As a gateway makes it, with other claims (None: left out)."""
    claims: dict[int, cbor.Value] = {
        name: value for name, value in ({**CLAIMS, **(changes or {})}).items() if value is not None
    }
    protected, payload = cbor.encode({HEADER_ALG: alg, HEADER_KID: kid}), cbor.encode(claims)
    return Sign1(protected, {}, payload, key.sign(to_be_signed(protected, payload))).encode()


def cases() -> Iterator[LoginCase]:
    """Valid ones first."""
    good = token()
    yield LoginCase("good", good, valid=True)
    yield LoginCase("in its last second", good, valid=True, now_s=NOW_S + 300)
    yield LoginCase("by a clock that is a minute ahead", good, valid=True, now_s=NOW_S - 60)
    yield LoginCase("good for a minute", token({EXP: NOW_S + 60}), valid=True)
    yield LoginCase("over", good, now_s=NOW_S + 361)
    yield LoginCase("of the future", good, now_s=NOW_S - 61)
    yield LoginCase("good for too long", token({EXP: NOW_S + 301}))
    yield LoginCase("for a broker", token({AUD: "mqtt.example:8883"}))
    yield LoginCase("for another label", token({AUD: AUDIENCE + "2"}))
    yield LoginCase("for the address with a slash", token({AUD: AUDIENCE + "/"}))
    yield LoginCase("of another gateway", token({ISS: "did:v2g:zOther", SUB: "did:v2g:zOther"}))
    yield LoginCase("about another gateway", token({SUB: "did:v2g:zOther"}))
    yield LoginCase("by another key", token(key=OTHER, kid=OTHER.key_id))
    yield LoginCase("by another key under the kid of the right one", token(key=OTHER))
    yield LoginCase("by the right key under another kid", token(kid=OTHER.key_id))
    yield LoginCase("with another algorithm in its header", token(alg=cose.ES256K))
    yield LoginCase("without a cti", token({CTI: None}))
    yield LoginCase("with a short cti", token({CTI: bytes(15)}))
    yield LoginCase("without an end", token({EXP: None}))
    yield LoginCase("with a claim more", token({8: "more"}))
    yield LoginCase("altered", good.replace(b"did:v2g:zQmGateway", b"did:v2g:zQmGatewaY"))
    yield LoginCase("cut", good[:-1])
    yield LoginCase("empty", b"")
