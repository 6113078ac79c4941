"""`scan --probe`: whom it probes, what is consent, and that one device that fails does not keep the others from it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from agent.cli import probe as module
from agent.cli.probe import consented, probe_all, worth_probing
from drivers.device import DeviceKind
from drivers.sunspec.connection import Unit
from drivers.sunspec.errors import NoAnswerError
from drivers.sunspec.probing import ProbeReport
from tests.agent.cli.test_scan import BATTERY, METER, PV, found


def report(*, is_as_found: bool = True) -> ProbeReport:
    return ProbeReport(
        address="a",
        unit=1,
        meter_id="m",
        title="t",
        kind=DeviceKind.PV,
        functions=(),
        is_as_found=is_as_found,
        notes=(),
    )


@pytest.mark.parametrize("answer", ["", "\n", "y\n", "Y\n", "YES\n", "yes please\n", "no\n", "yess\n"])
def test_anything_but_the_whole_word_is_no_consent(answer: str) -> None:
    assert not consented(answer)
    assert consented("yes\n")


def test_only_what_can_be_controlled_is_probed() -> None:
    lines = [found(1, METER), found(2, PV), found(3, None, "no answer"), found(4, BATTERY)]
    assert worth_probing(lines) == [lines[1], lines[3]]


async def test_a_device_that_cannot_be_probed_is_told_and_ends_no_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe(unit: Unit, kind: DeviceKind, *, progress: Callable[[str], None]) -> ProbeReport:
        progress(f"{kind}")
        if kind is DeviceKind.PV:
            raise NoAnswerError("nobody there")
        return report()

    monkeypatch.setattr(module, "probe", probe)
    told: list[str] = []
    first, second = await probe_all([found(1, PV), found(2, BATTERY)], 1.0, None, told.append)
    assert (first.is_well, first.problem, second.is_well, second.report) == (False, "nobody there", True, report())
    assert "not probed: nobody there" in first.lines()[0]
    assert told == ["pv", "battery"]


async def test_a_device_that_is_not_as_it_was_found_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe(unit: Unit, kind: DeviceKind, *, progress: Callable[[str], None]) -> ProbeReport:
        return report(is_as_found=False)

    monkeypatch.setattr(module, "probe", probe)
    [one] = await probe_all([found(1, PV)], 1.0, None, lambda _: None)
    assert not one.is_well
    assert "NOT" in one.lines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_once_what_was_found_is_put_back(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back = []

    async def probe(unit: Unit, kind: DeviceKind, *, progress: Callable[[str], None]) -> ProbeReport:
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), number)  # an impatient person
            for _ in range(5):
                await asyncio.sleep(0)
            put_back.append(kind)
        raise AssertionError

    monkeypatch.setattr(module, "probe", probe)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(probe_all([found(1, PV), found(2, BATTERY)], 1.0, None, lambda _: None))
    assert put_back == [DeviceKind.PV]
