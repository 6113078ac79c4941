"""Puts the parts of a world together: gateway, token, disk, link or broker, platform; and ends them all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from agent.identity.keys import verify_key_from_pem
from hil_tests.faults.disk import Disk
from hil_tests.faults.rotation import name_by_history
from hil_tests.faults.source import DEVICES
from hil_tests.faults.world import NAME, SETTLED, STALL_S, Carrier, Tokens, World
from hil_tests.rig.broker import client_files, running_broker
from hil_tests.rig.demo.stage import free_ports
from hil_tests.rig.link import Link
from hil_tests.rig.platform.enrol import Practice

WINDOW_S: Final = 5


@contextlib.asynccontextmanager
async def world(
    folder: Path, held: Tokens, shim: Path, seed: int, carrier: Carrier = Carrier.GRPC
) -> AsyncIterator[World]:
    """A fresh gateway and platform, both running. Everything that was started ends with the context.

    `folder` is there and empty.
    """
    state_dir = folder / "state"
    platform_port, page_port = free_ports(2)
    practice = Practice.make(folder / "platform")
    evidence_key = verify_key_from_pem(held.evidence_pem.read_bytes(), what="evidence key")
    keys = {"evidence": evidence_key.public_key_der}
    if carrier is Carrier.SETTLING:
        device_key = verify_key_from_pem(held.device_pem.read_bytes(), what="device key")
        keys[f"device:{SETTLED}"] = device_key.public_key_der
    gateway_id = None
    if carrier is not Carrier.ROTATING:
        practice.enrol(held.request, keys)
    async with contextlib.AsyncExitStack() as around:
        broker, login = None, ""
        if carrier is Carrier.MQTT:
            broker = await around.enter_async_context(running_broker(practice, folder / "broker"))
            ours = client_files(practice, folder / "clients", held.gateway_id)
            login = f'mqtt_certificate_file = "{ours.certificate}"\nmqtt_certificate_key_file = "{ours.key}"\n'
        link = await around.enter_async_context(Link("127.0.0.1", platform_port if broker is None else broker.port))
        address = link.address if broker is None else f"mqtts://{link.address}"
        (folder / "gateway.toml").write_text(
            _configuration(held, practice, state_dir, address, login, page_port, settling=carrier is Carrier.SETTLING),
            encoding="utf-8",
        )
        if carrier is Carrier.ROTATING:
            named = await name_by_history(folder / "gateway.toml", held.token.pin, NAME)
            gateway_id = named.gateway_id
            history = (named.enrolment_dir / "history.cose").read_bytes()
            practice.enrol((named.enrolment_dir / "uplink.csr").read_bytes(), keys, history=history)
        made = World(
            folder, held, Disk(shim, state_dir, folder), link, platform_port, seed, broker,
            merging=carrier is Carrier.MERGING, settling=carrier is Carrier.SETTLING, gateway_id=gateway_id,
        )  # fmt: skip
        made.page_port = page_port
        await made.start_platform()
        try:
            await made.start_gateway()
            try:
                yield made
            finally:
                await made.gateway.kill()
        finally:
            made.freeze_platform(False)
            await made.platform.kill()
            if broker is not None:
                broker.freeze(False)


def _configuration(
    held: Tokens, practice: Practice, state_dir: Path, address: str, login: str, page_port: int, *, settling: bool
) -> str:
    devices = "\n".join(
        f'[[device]]\nid = "{device_id}"\nkind = "meter"\ndriver = "sunspec"\naddress = "tcp://127.0.0.1:1"\n'
        f"unit = {unit}\n" + ("settled = true\n" if settling and device_id == SETTLED else "")
        for unit, device_id in enumerate(DEVICES, start=1)
    )
    encrypted = "" if held.store_key_file is None else f'store_key_secret = "file:{held.store_key_file}"\n'
    return f"""\
[gateway]
name = "{NAME}"
state_dir = "{state_dir}"

[token]
module = "{held.token.module}"
label = "{held.token.label}"
pin_secret = "file:{held.pin_file}"

[evidence]
linger_s = 0.1
{encrypted}
[platform]
endpoints = ["{address}"]
server_name = "localhost"
ca_file = "{practice.public_file("ca")}"
certificate_file = "{practice.certificate_file(NAME)}"
platform_key_file = "{practice.public_file("platform")}"
trust_root_file = "{practice.public_file("trust-root")}"
trust_list_file = "{practice.trust_list_file}"
{login}reconnect_least_s = 0.1
reconnect_most_s = 1.0
stall_s = {STALL_S}

[settlement]
window_s = {WINDOW_S}

[web]
listen = "127.0.0.1:{page_port}"

{devices}"""
