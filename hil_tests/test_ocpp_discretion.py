"""Over a real WebSocket: whatever a charger sends, no log line, event or tap holds a token, a password or a key."""

from __future__ import annotations

import json

import pytest
import structlog
from websockets.typing import Subprotocol

from hil_tests.ocpp_station import MemoryJournal, Site, Tls, running

TOKEN = "04AABBCCDD"
PASSWORD = "s3cret-password"
BROKEN = [
    f'[2,"1","Authorize",{{"idToken":{{"idToken":"{TOKEN}","type":"ISO14443"}}',
    f'[2,"2","Authorize",{{"idToken":{{"idToken":"{TOKEN * 4}","type":"ISO14443"}}}}]',
    f'[2,"4","Authorize",{{"idToken":"{TOKEN}"}}]',
    f'[2,"5","Authorize",{{"{TOKEN}":1}}]',
    f'[2,"6","{TOKEN}",{{}}]',
    f'["{TOKEN}"]',
    f'[3,"{TOKEN}",{{}}]',
    f'[4,"{TOKEN}","{TOKEN}","{TOKEN}",{{}}]',
    f'[2,"7","TransactionEvent",{{"idToken":{{"idToken":"{TOKEN}","type":"Central"}}}}]',
    TOKEN,
]


@pytest.mark.parametrize("version", ["ocpp2.0.1", "ocpp2.1"])
async def test_a01_no_log_event_or_tap_holds_what_was_in_a_broken_frame(version: str, loopback_tls: Tls) -> None:
    site = Site(MemoryJournal(), loopback_tls)
    async with running(site):
        tap = site.server.chargers["CP-1"].tap
        with structlog.testing.capture_logs() as logs, tap.listen() as ear:
            async with site.open(subprotocols=[Subprotocol(version)]) as socket:
                for frame in BROKEN:
                    await socket.send(frame)
                await socket.send(f'[2,"8","Authorize",{{"idToken":{{"idToken":"{TOKEN}","type":"Central"}}}}]')
                while json.loads(await socket.recv())[1] != "8":
                    pass
            heard = ear.take()
    assert any(line["event"] == "ocpp_bad_frame" for line in logs)
    assert any(line["event"] == "ocpp_sent" for line in logs)
    assert any(line["event"] == "ocpp_received" for line in logs)
    for held in (logs, site.events, heard):
        assert TOKEN not in str(held)
    assert "charger.bad_frame" in site.codes()


async def test_a01_a_charger_that_refuses_a_password_by_repeating_it_does_not_put_it_into_a_log(
    loopback_tls: Tls,
) -> None:
    site = Site(MemoryJournal(), loopback_tls)
    async with running(site):
        with structlog.testing.capture_logs() as logs:
            async with site.open() as socket:
                await socket.send(
                    '[2,"b","BootNotification",{"reason":"PowerUp","chargingStation":{"vendorName":"V","model":"M"}}]'
                )
                sent: list[str] = []
                while True:
                    kind, message_id, *rest = json.loads(await socket.recv())
                    if kind != 2:
                        continue
                    if rest[0] == "SetVariables":
                        values = [each["attributeValue"] for each in rest[1]["setVariableData"]]
                        sent += values
                        await socket.send(json.dumps([4, message_id, "InternalError", f"cannot take {values}", {}]))
                        break
                    await socket.send(json.dumps([4, message_id, "NotSupported", "", {}]))
    assert sent
    assert all(value not in str(logs) for value in sent if len(value) > 3)
