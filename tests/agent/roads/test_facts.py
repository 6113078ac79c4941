"""What is true of a run is stated at its start, and again while it lasts."""

from __future__ import annotations

import asyncio

import pytest

from agent.evidence import statements
from agent.evidence.kinds import Attestation, TpmQuote
from agent.evidence.tpm_quote import nonce_of
from agent.roads.facts import AGAIN_S, ATTESTATION_DAYS, facts, keep_stating
from firmware_attest.measurement import Measurement
from hil_tests.quote_cases import EXAMPLE
from tests.agent.roads.test_devices import settings

SOFTWARE = Measurement((("agent/gateway.py", bytes(32)),))


async def test_the_facts_are_stated_again_and_again() -> None:
    stated = 0
    enough = asyncio.Event()

    async def state() -> None:
        nonlocal stated
        stated += 1
        if stated == 3:
            enough.set()

    task = asyncio.create_task(keep_stating(state, every_s=0.0))
    await asyncio.wait_for(enough.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_it_is_made_anew_before_the_last_one_ends() -> None:
    assert AGAIN_S * 2 < ATTESTATION_DAYS * 86_400


def test_the_tpm_is_asked_over_all_that_is_attested() -> None:
    asked: list[bytes] = []

    def quote(nonce: bytes) -> TpmQuote | None:
        asked.append(nonce)
        return EXAMPLE.quote

    stated = facts(settings(), version="1", software=SOFTWARE, now_us=5, quote=quote)
    (attestation,) = (each for each in stated if isinstance(each, Attestation))
    assert attestation.quote == EXAMPLE.quote
    assert asked == [nonce_of(attestation)]
    assert statements.decode(statements.encode(attestation)) == attestation
    plain = facts(settings(), version="1", software=SOFTWARE, now_us=5)
    assert [each.quote for each in plain if isinstance(each, Attestation)] == [None]
