"""A login is what its specification says: a platform's reader and our writer are held to the same vectors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.identity.login_token import CTI, signed_token
from hil_tests import generate_identity_vectors
from hil_tests.evidence_cases import TestKey
from hil_tests.login_cases import AUDIENCE, CLAIMS, GATEWAY, KEY, NOW_S
from hil_tests.rig.login import NotLetInError, check_login

CASES: list[Any] = json.loads((generate_identity_vectors.FOLDER / "logins.json").read_text(encoding="utf-8"))


class VectorSigner:
    """The vectors' key. Fulfils drivers.device.Signer."""

    def __init__(self, key: TestKey) -> None:
        self._key = key
        self.algorithm = key.algorithm
        self.public_key_der = key.public_key_der

    async def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    async def sign_digest(self, digest: bytes) -> bytes:
        raise NotImplementedError


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_login_vector(case: Any) -> None:
    def read() -> bytes:
        return check_login(
            bytes.fromhex(case["token"]), bytes.fromhex(case["public_key_der"]),
            gateway_id=case["gateway_id"], audience=case["audience"], now_s=case["now_s"],
        )  # fmt: skip

    if case["valid"]:
        assert len(read()) == 16
        return
    with pytest.raises(NotLetInError):
        read()


async def test_the_good_vector_is_what_a_gateway_sends() -> None:
    cti = CLAIMS[CTI]
    assert isinstance(cti, bytes)
    made = await signed_token(VectorSigner(KEY), gateway_id=GATEWAY, audience=AUDIENCE, now_s=NOW_S, cti=cti)
    assert made.hex() == CASES[0]["token"]
