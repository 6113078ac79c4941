"""What the tests of agent/roads share: a clock that a test turns, a desk that fails on demand, a patient `until`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

from agent.clock import Clock
from agent.evidence import verify
from agent.evidence.cose import VerifyKey
from agent.evidence.statements import Statement
from agent.evidence.verify import TrustedKey, VerifiedBatch, Verifier
from agent.measure.reading import Quality, Reading
from agent.roads.desk import Desk, Notes
from agent.store import ChannelRow, Stage, Store, StoreFullError
from drivers.device import ValueSource

PATIENCE_S = 15.0
START_US = 1_800_000_000_000_000
"""A boundary of windows of any usual length."""
BOOT_ID = bytes(range(16))
OTHER_BOOT_ID = bytes(range(1, 17))
WATT_HOUR = 1_000
"""In milliwatt-hours, as registers count."""


@dataclass
class HandClock:
    """Stands still until a test turns it. `clock` is the agent's over it, synchronised unless told otherwise."""

    wall_us: int = START_US
    monotonic_s: float = 1_000.0
    synchronised: bool = True

    @property
    def clock(self) -> Clock:
        return Clock(
            realtime_us=lambda: self.wall_us,
            monotonic_s=lambda: self.monotonic_s,
            kernel_error_us=lambda: 1_000 if self.synchronised else None,
            kernel_boot_id="a boot",
        )

    def advance(self, seconds: float) -> None:
        self.wall_us += round(seconds * 1e6)
        self.monotonic_s += seconds


class FailingDesk(Desk):
    """Refuses everything, or one stage of channel rows, while it is told to: a disk that is full for a time."""

    refusing = False
    refused_stage: Stage | None = None
    refusals = 0

    async def put(
        self, taken: Sequence[Statement], notes: Notes | None = None, channel: Sequence[ChannelRow] = ()
    ) -> None:
        if self.refusing or any(row.stage is self.refused_stage for row in channel):
            self.refusals += 1
            raise StoreFullError("no space left, says the test")
        await super().put(taken, notes, channel)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait for a condition, looking at it again and again; the deadline names what never came."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = condition()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE_S:g} s: {what}") from None


@contextlib.asynccontextmanager
async def running(part: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A part in a task of its own. Ends it at the end, and raises what it raised."""
    task = asyncio.create_task(part)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def settle_down(store: Store) -> None:
    """Give every task that has something to do at once the time to do it: some rounds through loop and store."""
    for _ in range(20):
        await store.set_note("a round", b"")


def reading(
    sequence: int,
    *,
    at_us: int,
    import_wh: int = 0,
    device_id: str = "pv-1",
    boot_id: bytes = BOOT_ID,
    counted: bool = True,
    incarnation: int = 1,
) -> Reading:
    """A reading whose import register stands at `import_wh`; not `counted`: without a register."""
    return Reading(
        device_id=device_id,
        incarnation=incarnation,
        boot_id=boot_id,
        sequence=sequence,
        timestamp_us=at_us,
        net_energy_wh=0,
        import_register_milliwatt_hours=import_wh * WATT_HOUR if counted else None,
        export_register_milliwatt_hours=0 if counted else None,
        meter_epoch=1,
        power_w=None,
        voltage_millivolts=None,
        state_of_charge_permille=None,
        frequency_millihertz=None,
        quality=Quality.GOOD if counted else Quality.NO_REGISTER,
        source=ValueSource.OPEN_BUS,
    )


async def verified(store: Store, gateway_id: str, key: VerifyKey) -> list[VerifiedBatch]:
    """Every sealed batch, verified one by one and as a chain."""
    verifier = Verifier([TrustedKey(gateway_id, key)])
    batches = [verifier.verify_batch(batch.encoded) for batch in await store.batches(1, 10_000)]
    assert verify.first_break(batches) is None
    return batches
