"""`v2g-gateway scan --probe`: tests the revert timers of what was found, with consent, and beside no agent.

What is done to a device, and putting back what was found, is `drivers/sunspec/probing.py`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from agent.cli.scan import Found, Place
from drivers.device import DeviceKind
from drivers.sunspec.connection import ConnectionPool, Unit
from drivers.sunspec.endpoint import parse_address
from drivers.sunspec.errors import SunSpecError
from drivers.sunspec.probing import ProbeReport, probe
from drivers.sunspec.tls import TlsFiles

CONSENT: Final = "yes"
WHAT_HAPPENS: Final = (
    "Each of these devices is given a gentle order (about 1 % less power) with a short timer, one control function\n"
    "after the other, and left alone to see whether it ends by itself. What was found is put back, also after Ctrl-C."
)


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of one device."""

    place: Place
    report: ProbeReport | None
    problem: str

    @property
    def is_well(self) -> bool:
        """It was tested, and is as it was found. Whether its timers work is what the report says."""
        return self.report is not None and self.report.is_as_found

    def lines(self) -> Sequence[str]:
        if self.report is None:
            return (f"{self.place.address} unit {self.place.unit}: not probed: {self.problem}",)
        return self.report.lines()

    def as_json(self) -> dict[str, object]:
        return {
            "address": self.place.address,
            "unit": self.place.unit,
            "problem": self.problem or None,
            "report": None if self.report is None else asdict(self.report),
        }


def worth_probing(found: Sequence[Found]) -> list[Found]:
    """What could be controlled."""
    kinds = (DeviceKind.PV, DeviceKind.BATTERY)
    return [one for one in found if one.description is not None and one.description.likely_kind in kinds]


def consented(answer: str) -> bool:
    """Only the whole word is consent."""
    return answer.strip() == CONSENT


async def probe_all(
    found: Sequence[Found], timeout_s: float, tls: TlsFiles | None, progress: Callable[[str], None]
) -> list[Probed]:
    """One device after the other. SIGINT and SIGTERM end it once what was found is put back: KeyboardInterrupt."""
    working = asyncio.ensure_future(_one_by_one(found, timeout_s, tls, progress))
    loop = asyncio.get_running_loop()
    is_told = False

    def end() -> None:
        nonlocal is_told
        if not is_told:  # a second Ctrl-C must not keep it from putting back
            is_told = True
            progress("putting back what was found")
            working.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    try:
        return await working
    except asyncio.CancelledError:
        if is_told:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _one_by_one(
    found: Sequence[Found], timeout_s: float, tls: TlsFiles | None, progress: Callable[[str], None]
) -> list[Probed]:
    probed = []
    for one in found:
        assert one.description is not None
        kind = one.description.likely_kind
        assert kind is not None  # worth_probing
        address = one.place.address
        pool = ConnectionPool(time.monotonic, tls={} if tls is None else {parse_address(address): tls})
        try:
            unit = Unit(pool.connection(address), one.place.unit, timeout_s)
            probed.append(Probed(one.place, await probe(unit, kind, progress=progress), ""))
        except SunSpecError as error:
            probed.append(Probed(one.place, None, str(error)))
        finally:
            pool.close()
    return probed
