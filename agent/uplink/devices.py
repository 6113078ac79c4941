"""One ConnectDevice stream per device, on the platform's channel: live readings and commands beside GatewayLink.

Without GatewayLink the same streams carry everything: `Carrying` says what goes next and what has arrived. Every
stream has its own task and its own back-off; a device that the platform does not take, or lets stand, leaves the others
alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Final

import grpc
import structlog
from grpc import aio

from agent.uplink.backoff import Backoff
from agent.uplink.carrying import Carrying
from agent.uplink.channel import describe, is_status, require_message
from agent.uplink.coding import size_of
from agent.uplink.delivery import REFUSALS
from agent.uplink.errors import LinkDownError, PlatformFaultError, StalledError, UplinkError
from agent.uplink.lane import Word
from agent.uplink.line import NotOfferedError
from agent.uplink.listener import Listener, is_acknowledgement_only
from agent.uplink.live import LiveReadings
from agent.uplink.origins import Origins
from agent.uplink.pace import Pace
from agent.uplink.telemetry import opening_of, stand_behind
from agent.uplink.together import Together
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry, GridCommand
from proto.energysettlement.v1.device_pb2_grpc import EnergyDeviceStreamStub

_log = structlog.get_logger()

UNCONFIRMED_AFTER_S: Final = 10.0
UNCONFIRMED_MESSAGES: Final = 500
"""A platform that does not acknowledge gets a stream of at most so much, then we half-close and wait for its OK: what
is sent again after a fault stays small, and the stream is away for commands only for a round trip."""
LOOK_EVERY_S: Final = 1.0
PACED_LEAST_S: Final = 0.05
"""Streams that wait for the same line do not all look at it with each message."""

_NO_LONGER: Final = {
    what: f"the platform no longer acknowledges {name} on devices' streams, as it did: was it set back to an earlier "
    "version? What it ends well counts as delivered from now on, unconfirmed; what stalled is sent again"
    for what, name in ((Word.READINGS, "readings"), (Word.STATEMENTS, "what is no reading"))
}

_DeviceCall = aio.StreamStreamCall[DeviceTelemetry, GridCommand]


class _SilentError(StalledError):
    """The platform has stopped to acknowledge."""

    def __init__(self, device_id: str, what: Word, stall_s: float, *, said: Word) -> None:
        super().__init__(f"no acknowledgement for {device_id} for {stall_s:g} s")
        self.what = what
        self.speaks = bool(said & ~what)
        """It did acknowledge something else of the device."""


class _StreamEndedError(UplinkError):
    """The platform ended one device's stream."""


@dataclass(slots=True)
class _Stream:
    """One call for one device."""

    call: _DeviceCall
    half_closed: bool = False
    since_s: dict[Word, float] = field(default_factory=dict)
    """Since when readings, and statements, are in flight without an acknowledgement."""
    said: Word = Word.NONE
    """What was acknowledged on it."""


class DeviceStreams:
    """The streams of one connection. `details` gets one sentence per device that has no stream; none is good."""

    def __init__(
        self,
        channel: aio.Channel,
        *,
        live: MutableMapping[str, LiveReadings],
        listener: Listener,
        details: MutableMapping[str, str],
        reconnect: Backoff,
        stall_s: float,
        draw: Callable[[], float],
        origins: Origins,
        pace: Pace,
        count_packed: bool,
        on_refused: Callable[[str, str], None],
        on_fault: Callable[[str, str], None],
        carrying: Carrying | None = None,
    ) -> None:
        """With `carrying`, `on_refused` (device, why) tells of one that the platform does not take time and again, and
        `on_fault` (code, what it is) of what the platform does that it should not."""
        self._stub = EnergyDeviceStreamStub(channel)
        self._live = live
        self._listener = listener
        self._monotonic_s = listener.clock.monotonic_s
        self._details = details
        self._reconnect = reconnect
        self._stall_s = stall_s
        self._draw = draw
        self._origins = origins
        self._pace = pace
        self._count_packed = count_packed
        self._carrying = carrying
        self._on_refused = on_refused
        self._on_fault = on_fault
        self._running: set[str] = set()
        self._open: set[str] = set()
        """Devices whose streams have begun and not ended."""
        self._arrived_s: dict[str, float] = {}
        """When something of a device arrived last."""

    async def run(self) -> None:
        """Until cancelled, or with `carrying` until the connection is lost (LinkDownError, PlatformFaultError)."""
        self._details.clear()
        tasks = Together()
        for device_id in self._live:
            self._start(tasks, device_id)
        if self._carrying is not None:
            tasks.start(self._load(self._carrying, tasks))
        await tasks.run()

    def _start(self, tasks: Together, device_id: str) -> None:
        if device_id not in self._running:
            self._running.add(device_id)
            tasks.start(self._keep(device_id))

    async def _load(self, carrying: Carrying, tasks: Together) -> None:
        """Feed the outbox to the streams, and note in it what has arrived."""
        while True:
            carrying.changed.clear()
            more = await carrying.advance(self._listener.clock.now().wall_us)
            for device_id in carrying.delivery.device_ids if more else ():
                self._live.setdefault(device_id, LiveReadings()).changed.set()
            for device_id in self._live:
                self._start(tasks, device_id)
            if not more:
                await carrying.changed.wait()

    async def _keep(self, device_id: str) -> None:
        """Hold one device's stream, over all its ends."""
        backoff = self._reconnect
        while True:
            started_s = self._monotonic_s()
            self._open.add(device_id)
            try:
                await self._stream(device_id)
                backoff = self._reconnect
                continue
            except Exception as error:
                cause = error
            finally:
                self._open.discard(device_id)
            if not isinstance(cause, UplinkError | aio.AioRpcError):
                _log.error("uplink.device_stream_fault", device_id=device_id, error=describe(cause), exc_info=cause)
            if self._carrying is not None:
                backoff = replace(self._reconnect, failures=self._refused(self._carrying, device_id, cause))
            elif is_status(cause, grpc.StatusCode.UNIMPLEMENTED):
                self._details[device_id] = "the platform takes no live readings (ConnectDevice is not offered)"
                return
            else:
                self._details[device_id] = describe(cause)
                backoff = backoff.ended(self._monotonic_s() - started_s, useful=False)
            await asyncio.sleep(backoff.wait_s(self._draw()))

    def _refused(self, carrying: Carrying, device_id: str, cause: Exception) -> int:
        """A stream that carries everything has failed; how many times in a row, with nothing arrived.

        Raises what is the connection's fault and not one device's.
        """
        stalls = isinstance(cause, StalledError) and self._is_everybodys(carrying, device_id)
        if isinstance(cause, _SilentError) and (stalls or cause.speaks):
            apart_s = self._stall_s / 2
            if carrying.stalled(cause.what, self._monotonic_s(), apart_s=apart_s):
                self._on_fault("uplink.acknowledges_no_longer", _NO_LONGER[cause.what])
        self._give_up_when_all_is_lost(cause, stalls=stalls)
        times = carrying.refused(device_id)
        why = f"the platform does not take {device_id}: {describe(cause)}; what is measured there is kept"
        self._details[device_id] = why
        if isinstance(cause, PlatformFaultError):
            self._on_fault("uplink.platform_fault", f"{device_id}: {cause}")
        if times >= REFUSALS:
            self._on_refused(device_id, f"{why}, and tried again; ask the platform whether the device is enrolled")
        return times

    def _is_everybodys(self, carrying: Carrying, device_id: str) -> bool:
        """Whether a stall is the platform's: nothing of others arrives either, though something is on its way."""
        others = [at_s for each, at_s in self._arrived_s.items() if each != device_id]
        if not others:
            return True
        return self._monotonic_s() - max(others) >= self._stall_s and carrying.delivery.others_in_flight(device_id)

    def _give_up_when_all_is_lost(self, cause: Exception, *, stalls: bool) -> None:
        """A fault that other streams have, too, ends the connection."""
        if stalls or (isinstance(cause, LinkDownError) and not isinstance(cause, StalledError)):
            raise cause
        if self._open:
            return
        if is_status(cause, grpc.StatusCode.UNAVAILABLE):
            raise LinkDownError(describe(cause))
        if is_status(cause, grpc.StatusCode.UNIMPLEMENTED):
            raise NotOfferedError("the platform offers neither GatewayLink nor ConnectDevice")

    async def _stream(self, device_id: str) -> None:
        """One call from opening to end. Returns when it was half-closed and ended with OK; raises for any other end."""
        stream = _Stream(self._stub.ConnectDevice())
        live = self._live[device_id]
        live.keep_newest()
        try:
            tasks = Together()
            reader = tasks.start(self._read(stream, device_id))
            tasks.start(self._write(stream, device_id, live, reader))
            await tasks.run()
        finally:
            stream.call.cancel()
        if self._carrying is not None:
            self._arrived(device_id)
            self._carrying.ended_well(device_id)

    def _arrived(self, device_id: str) -> None:
        self._arrived_s[device_id] = self._monotonic_s()
        self._details.pop(device_id, None)

    async def _read(self, stream: _Stream, device_id: str) -> None:
        while True:
            command = await stream.call.read()
            require_message(command)
            if not isinstance(command, GridCommand):
                if stream.half_closed:
                    return
                raise _StreamEndedError("the platform ended the stream")
            if self._carrying is None:
                self._details.pop(device_id, None)
            elif said := self._carrying.acknowledged(device_id, command):
                self._arrived(device_id)
                stream.said |= said
                for what in said:
                    stream.since_s.pop(what, None)
            if not is_acknowledgement_only(command):
                self._origins.came(command.command_id, device_id)
                await self._listener.command(command, device_id)

    async def _write(self, stream: _Stream, device_id: str, live: LiveReadings, reader: asyncio.Task[None]) -> None:
        stand = None if live.newest is None else stand_behind(live.newest)
        if self._carrying is not None and stand is not None:
            self._carrying.delivery.stand(device_id, stand)
        timed = self._carrying is not None and self._carrying.has_statements
        await self._put(stream, opening_of(device_id, stand, timed=timed))
        while True:
            live.changed.clear()
            telemetry = self._next(device_id, live)
            if telemetry is not None:
                await self._put(stream, telemetry)
                if self._carrying is None:
                    self._details.pop(device_id, None)
            if self._carrying is not None and self._is_due(stream, device_id, self._carrying):
                await self._half_close(stream, reader)
                return
            if telemetry is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_after_s()):
                        await live.changed.wait()

    def _next(self, device_id: str, live: LiveReadings) -> DeviceTelemetry | None:
        """The newest first, then the backlog in order."""
        while (telemetry := live.take()) is not None:
            if self._carrying is None or self._carrying.delivery.sent_ahead(telemetry):
                return telemetry
        if self._carrying is None:
            return None
        # What is measured now and receipts wait for nobody; of the line that is paid for they take their part.
        now_s = self._monotonic_s()
        telemetry = self._carrying.delivery.next(device_id, readings=self._pace.wait_s(now_s) == 0)
        if telemetry is not None:
            self._pace.sent(size_of(telemetry, compressed=self._count_packed), now_s)
        return telemetry

    def _look_after_s(self) -> float:
        most_s = min(LOOK_EVERY_S, self._stall_s / 4)
        paced_s = 0.0 if self._carrying is None else self._pace.wait_s(self._monotonic_s())
        return min(most_s, max(paced_s, PACED_LEAST_S)) if paced_s else most_s

    def _is_due(self, stream: _Stream, device_id: str, carrying: Carrying) -> bool:
        """Whether to half-close now. Raises StalledError when a platform that acknowledges has stopped to."""
        now_s, due, idle = self._monotonic_s(), False, True
        for what in (Word.READINGS, Word.STATEMENTS):
            in_flight = carrying.delivery.in_flight(device_id, what)
            if in_flight == 0:
                stream.since_s.pop(what, None)
                continue
            idle = False
            waited_s = now_s - stream.since_s.setdefault(what, now_s)
            if what not in carrying.word:
                due = due or waited_s >= UNCONFIRMED_AFTER_S or in_flight >= UNCONFIRMED_MESSAGES
            elif waited_s > self._stall_s:
                raise _SilentError(device_id, what, self._stall_s, said=stream.said)
        return carrying.delivery.needs_new_stream(device_id) if idle else due

    async def _half_close(self, stream: _Stream, reader: asyncio.Task[None]) -> None:
        stream.half_closed = True
        await stream.call.done_writing()
        done, _ = await asyncio.wait([reader], timeout=self._stall_s)
        if not done:
            raise StalledError(f"the platform did not end a finished stream within {self._stall_s:g} s")

    async def _put(self, stream: _Stream, telemetry: DeviceTelemetry) -> None:
        try:
            await stream.call.write(telemetry)
        except asyncio.InvalidStateError:
            raise _StreamEndedError("the platform ended the stream") from None
