"""The uplink with its TLS key in a real SoftHSM token and its outbox in the real store."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import pytest

from agent.clock import Clock
from agent.evidence.batch import FIRST_PREVIOUS_ROOT, decode_batch
from agent.identity.csr import certificate_request
from agent.store.rows import Queued, StoredBatch
from agent.store.store import Store
from agent.token.token import Token
from agent.uplink.mqtt_login import log_in
from agent.uplink.tls import credentials_from_files
from agent.uplink.uplink import Uplink
from hil_tests.rig.platform.service import Server
from hil_tests.rig.token import make_softhsm, softhsm_module
from hil_tests.uplink_parts import NAME, Rig, address, rig, until

__all__ = ["rig"]

KEY = b"uplink-tls"


@pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")
async def test_stored_batches_go_out_over_tls_whose_key_never_leaves_the_token(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = make_softhsm(tmp_path / "softhsm")
    for name, value in scratch.environment.items():
        monkeypatch.setenv(name, value)
    token = Token(module=scratch.module, label=scratch.label, read_pin=lambda: scratch.pin)
    token.start()
    try:
        async with asyncio.timeout(20):
            await token.wait_ready()
        made = await token.create_key(KEY)
        gateway = rig.gateway
        signer = token.signer(KEY, made.public_key_der)
        request = await certificate_request(signer, common_name=NAME, did=gateway.evidence.gateway_id)
        rig.practice.enrol(request, {"evidence": gateway.evidence.key.public_key_der})
        async with await Store.open(tmp_path / "state") as store, Server(rig.platform, rig.practice) as server:
            settings = rig.settings(address(server.port))
            uplink = Uplink(
                settings,
                identity=gateway.evidence.identity("meter"),
                outbox=store,
                credentials=lambda: credentials_from_files(
                    ca_file=settings.ca_file,
                    certificate_file=settings.certificate_file,
                    public_key_der=made.public_key_der,
                    sign_digest=lambda digest: token.sign_blocking(KEY, digest, 5.0),
                ),
                mqtt_login=functools.partial(log_in, settings, signer, gateway.evidence.gateway_id, Clock()),
                platform_key=rig.practice.key("platform").verify_key,
                clock=Clock(),
                on_command=gateway.on_command,
                on_channel=gateway.on_channel,
                on_connected=gateway.on_connected,
                on_platform_time=gateway.on_platform_time,
                on_alarm=gateway.on_alarm,
            )
            task = asyncio.create_task(uplink.run())
            try:
                for number in range(1, 4):
                    await _seal(rig, store, number)
                    uplink.batch_ready()
                await until(lambda: uplink.status().acknowledged_number == 3, "all acknowledged")
                assert (await store.counts()).unacknowledged_batches == 0
                assert await store.acknowledged_number() == 3
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    finally:
        await token.close()
    assert rig.books()["batches_verified"] == 3


async def _seal(rig: Rig, store: Store, number: int) -> None:
    row = rig.gateway.evidence.row("meter")
    batch = decode_batch(row.encoded)
    assert batch.identity.number == number
    await store.put([Queued(kind=1, device_id="meter", sequence=number, timestamp_us=number, encoded=batch.leaves[1])])
    (queued,) = await store.queued()
    last = await store.last_batch()
    await store.seal(
        StoredBatch(
            incarnation=row.incarnation,
            number=row.number,
            root=row.root,
            previous_root=FIRST_PREVIOUS_ROOT if last is None else last[2],
            encoded=row.encoded,
            sealed_at_us=0,
            leaf_count=len(batch.leaves),
        ),
        queued.rowid,
    )
