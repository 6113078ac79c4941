"""The whole gateway with a second key: what it sends is signed twice, and its page says so."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agent.evidence.cose import ML_DSA_65
from agent.evidence.countersignature import Policy
from agent.evidence.verify import TrustedKey, Verifier
from agent.identity.countersigner import ENROLMENT, PUBLIC_FILE
from agent.identity.did import key_of_did
from agent.identity.keys import verify_key_from_pem
from hil_tests.gateway_parts import gateway_site, needs_softhsm, part_of

pytestmark = needs_softhsm


async def test_every_batch_that_reaches_the_platform_is_signed_twice(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        text = stage.config.read_text(encoding="utf-8")
        stage.config.write_text(f'{text}\n[evidence]\ncountersign = "ml-dsa-65"\n', encoding="utf-8")
        await stage.start_site()
        await stage.start_platform()
        await stage.start_gateway()
        status = await site.well()
        assert part_of(status, "countersignature")["ok"]
        await site.shows(lambda s: s["evidence"]["acknowledged"] > 0, "acknowledged evidence")
        assert await stage.gateway.end() == 0
        await site.nothing_lost()
        public = (tmp_path / "state" / ENROLMENT / PUBLIC_FILE).read_bytes()
        second = verify_key_from_pem(public, what=PUBLIC_FILE)
        epoch = TrustedKey(stage.gateway_id, key_of_did(stage.gateway_id), countersigner=second, policy=Policy.BOTH)
        book = sqlite3.connect(stage.folder / "platform" / "book.sqlite")
        batches = [octets for (octets,) in book.execute("SELECT octets FROM entry WHERE kind = 'batch'")]
        book.close()
        assert batches
        verifier = Verifier([epoch])
        assert {verifier.verify_batch(each).proven_by[-1] for each in batches} == {ML_DSA_65}
