"""The chargers of the bench `ocpp`: each sends meter values every second and does what it is told.

`python -m hil_tests.bench._ocpp_chargers PORT COUNT` runs them in a process of its own until its standard input ends,
then prints when which limit arrived: {"CP-7 4321": nanoseconds of the machine's monotonic clock}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from hil_tests.bench._ocpp_frames import transaction_event

AGAIN_S = 0.1
START_S = 60.0
"""A gateway that is only starting refuses connections so long at most; real chargers come back too."""

arrived_ns: dict[str, int] = {}


class Charger:
    """One station with one EVSE, written for little of its own cost."""

    def __init__(self, port: int, number: int) -> None:
        self._identity = f"CP-{number}"
        self._uri = f"ws://127.0.0.1:{port}/ocpp/{self._identity}"
        self._delay_s = number % 100 / 100  # spread over the second
        self._limit_w = 0
        self._duration_s = 10**6

    async def run(self) -> None:
        async with await self._connect() as socket:
            boot = {"chargingStation": {"vendorName": "Bench", "model": "One"}, "reason": "PowerUp"}
            await socket.send(orjson.dumps([2, "boot", "BootNotification", boot]).decode())
            async with asyncio.TaskGroup() as group:
                group.create_task(self._measure(socket))
                async for text in socket:
                    frame = orjson.loads(text)
                    if frame[0] == 2:
                        answer = self._answer(frame[2], frame[3], time.monotonic_ns())
                        await socket.send(orjson.dumps([3, frame[1], answer]).decode())

    async def _connect(self) -> ClientConnection:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                return await connect(
                    self._uri,
                    subprotocols=[Subprotocol("ocpp2.0.1")],
                    open_timeout=60,
                    ping_interval=None,
                    compression=None,
                    proxy=None,
                )
            except ConnectionRefusedError:
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(AGAIN_S)

    async def _measure(self, socket: ClientConnection) -> None:
        await asyncio.sleep(self._delay_s)
        due_s, number = time.monotonic(), 0
        while True:
            kind = "Updated" if number else "Started"
            await socket.send(transaction_event(number, f"T-{self._identity}", kind))
            due_s, number = due_s + 1, number + 1
            await asyncio.sleep(max(0, due_s - time.monotonic()))

    def _answer(self, action: str, payload: dict[str, Any], now_ns: int) -> dict[str, Any]:
        match action:
            case "SetChargingProfile":
                schedule = payload["chargingProfile"]["chargingSchedule"][0]
                self._limit_w = schedule["chargingSchedulePeriod"][0]["limit"]
                self._duration_s = schedule.get("duration", 10**6)
                arrived_ns.setdefault(f"{self._identity} {self._limit_w}", now_ns)
                return {"status": "Accepted"}
            case "GetCompositeSchedule":
                periods = [{"startPeriod": 0, "limit": self._limit_w}, {"startPeriod": self._duration_s, "limit": 0}]
                schedule = {
                    "evseId": 1,
                    "duration": payload["duration"],
                    "scheduleStart": "2026-01-01T00:00:00Z",
                    "chargingRateUnit": "W",
                    "chargingSchedulePeriod": periods,
                }
                return {"status": "Accepted", "schedule": schedule}
            case "SetVariables" | "GetVariables":
                kind = action[0].lower() + action[1:-1]
                asked = payload[f"{kind}Data"]
                result = [{"attributeStatus": "Accepted", **pick(one)} for one in asked]
                return {f"{kind}Result": result}
            case "GetTransactionStatus":
                return {"messagesInQueue": False, "ongoingIndicator": True}
            case _:
                return {"status": "Accepted"}


def pick(asked: dict[str, Any]) -> dict[str, Any]:
    """What an answer about a variable repeats of the question."""
    return {"component": asked["component"], "variable": asked["variable"]}


async def _run(port: int, count: int) -> None:
    chargers = [asyncio.create_task(Charger(port, number).run()) for number in range(count)]
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # A charger that fails fails the bench: its figures would be of fewer.
    done, _ = await asyncio.wait([ended, *chargers], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    for charger in chargers:
        charger.cancel()
    await asyncio.gather(*chargers, return_exceptions=True)
    print(json.dumps(arrived_ns), flush=True)


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2])))
