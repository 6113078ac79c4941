"""`v2g-gateway scan`: whom it asks, that it ends, and that what it prints is ready configuration."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable, Mapping

from agent.cli.scan import AT_ONCE, SERIAL_SETTINGS, Found, Place, Scan, configuration
from agent.config import Settings
from drivers.device import DeviceKind
from drivers.sunspec.discovery import DeviceDescription, FoundModel
from drivers.sunspec.endpoint import Endpoint
from drivers.sunspec.errors import BadAnswerError, NoAnswerError
from drivers.sunspec.transport import Line
from tests.drivers.sunspec.fakes import FakeDevice, FakeLine
from tests.drivers.sunspec.fakes import battery as device_battery
from tests.drivers.sunspec.fakes import meter as device_meter
from tests.drivers.sunspec.fakes import pv as device_pv


def described(*models: int, serial: str = "123", manufacturer: str = "Maker") -> DeviceDescription:
    return DeviceDescription(
        address="tcp://192.0.2.1:502",
        unit=1,
        base=40_000,
        manufacturer=manufacturer,
        model="Model X",
        options="",
        version="1",
        serial=serial,
        models=tuple(FoundModel(number, 40_002, 10) for number in models),
        notes=(),
    )


def found(number: int, description: DeviceDescription | None, problem: str = "") -> Found:
    return Found(Place(f"tcp://192.0.2.{number}:502", 1), description, problem)


METER, PV, BATTERY = described(1, 203), described(1, 103), described(1, 701, 713)


def test_the_printed_configuration_is_accepted() -> None:
    text = configuration([found(1, METER), found(2, PV), found(3, BATTERY), found(4, PV), found(5, METER)])
    settings = Settings.model_validate({"token": {"label": "t"}, **tomllib.loads(text)})
    assert [(d.id, d.kind) for d in settings.device] == [
        ("grid", DeviceKind.METER),
        ("pv-1", DeviceKind.PV),
        ("battery-1", DeviceKind.BATTERY),
        ("pv-2", DeviceKind.PV),
        ("meter-2", DeviceKind.METER),
    ]
    assert settings.device[1].address == "tcp://192.0.2.2:502"
    assert [d.parent for d in settings.device] == [None, "grid", "grid", "grid", "grid"]
    assert "parent" not in configuration([found(2, PV)]), "nothing is behind a meter that was not found"


def test_what_gave_no_answer_or_is_of_no_use_is_not_in_the_configuration() -> None:
    assert configuration([found(1, None, "no answer"), found(2, described(1, 64001))]) == ""


HOST, OTHER = "tcp://192.0.2.1:502", "tcp://192.0.2.2:502"


class Network:
    """Lines by address; an address that is not there refuses connections. Counts what is open at a time."""

    def __init__(self, lines: Mapping[str, Callable[[], Line]]) -> None:
        self.lines = lines
        self.opened: list[str] = []

    def __call__(self, endpoint: Endpoint) -> Line:
        self.opened.append(str(endpoint))
        make = self.lines.get(str(endpoint))
        return FakeLine({}, refuses_connections=True) if make is None else make()


class Garbage(FakeLine):
    """Something that is not Modbus."""

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        raise BadAnswerError("a web server answers here")


class Stuck(FakeLine):
    """Accepts and then takes for ever."""

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError


def of(**units: FakeDevice) -> Callable[[], Line]:
    """A line with devices by unit: of(u1=...)."""
    return lambda: FakeLine({int(name[1:]): device for name, device in units.items()})


async def test_every_unit_of_every_line_is_asked_and_told_in_order() -> None:
    network = Network({HOST: of(u1=device_pv(), u3=device_meter()), OTHER: of(u1=device_battery())})
    found = await Scan((1, 2, 3), 0.1, line=network).run([HOST, OTHER])
    kinds = [(one.place.address, one.place.unit, one.description and one.description.likely_kind) for one in found]
    assert kinds == [
        (HOST, 1, DeviceKind.PV),
        (HOST, 2, None),
        (HOST, 3, DeviceKind.METER),
        (OTHER, 1, DeviceKind.BATTERY),
        (OTHER, 2, None),
        (OTHER, 3, None),
    ]


async def test_units_that_nobody_asked_for_by_name_are_no_news() -> None:
    network = Network({HOST: of(u3=device_meter()), OTHER: of()})
    found = await Scan((1, 3), 0.1, every_unit=False, line=network).run([HOST, OTHER])
    assert [(one.place, one.problem == "") for one in found] == [(Place(HOST, 3), True), (Place(OTHER, 1), False)]


async def test_where_nobody_listens_one_attempt_is_enough() -> None:
    network = Network({})
    [one] = await Scan((1, 2, 3), 0.1, line=network).run([HOST])
    assert (one.is_nobody, one.place, network.opened) == (True, Place(HOST, 1), [HOST])


async def test_a_web_server_is_told_once_and_ends_no_scan() -> None:
    network = Network({HOST: lambda: Garbage({}), OTHER: of(u1=device_pv())})
    first, second, _ = await Scan((1, 2), 0.1, line=network).run([HOST, OTHER])
    assert (first.problem, first.is_nobody) == ("a web server answers here", False)
    assert second.description is not None


async def test_a_device_that_ignores_unit_ids_is_found_once() -> None:
    device = device_pv()
    [one] = await Scan((1, 2, 3), 0.1, line=Network({HOST: of(u1=device, u2=device, u3=device)})).run([HOST])
    assert one.description is not None
    assert one.description.notes[-2:] == ("answers as unit 2 too", "answers as unit 3 too")


async def test_a_scan_ends_in_its_time_and_names_what_it_did_not_ask() -> None:
    network = Network({HOST: lambda: Stuck({}), OTHER: of(u1=device_pv())})
    first, second = await Scan((1,), 0.1, most_s=0.3, line=network).run([HOST, OTHER])
    assert "not asked to the end: the 0.3 s" in first.problem
    assert second.description is not None


async def test_a_line_that_the_agent_holds_is_not_touched() -> None:
    network = Network({HOST: of(u1=device_pv())})
    [one] = await Scan((1,), 0.1, held={HOST: "held"}, line=network).run([HOST])
    assert (one.problem, network.opened) == ("held", [])


async def test_no_more_lines_are_open_at_once_than_allowed() -> None:
    now, most = 0, 0

    class Counting(FakeLine):
        async def connect(self, timeout_s: float) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            raise NoAnswerError("nobody")

    wanted = [f"tcp://192.0.2.{number}:502" for number in range(3 * AT_ONCE)]
    done: list[None] = []
    network = Network(dict.fromkeys(wanted, lambda: Counting({})))
    found = await Scan((1,), 0.1, line=network, done=lambda: done.append(None)).run(wanted)
    assert (len(found), len(done)) == (len(wanted), len(wanted))
    assert 1 < most <= AT_ONCE


async def test_baud_rate_and_parity_of_a_serial_port_are_found_out() -> None:
    right = "rtu:///dev/ttyX?baudrate=19200&parity=E&stopbits=1"
    network = Network({right: of(u3=device_meter()), **{other: of() for other in serial_addresses() if other != right}})
    [one] = await Scan((1, 3), 0.1, every_unit=False, line=network).run(["rtu:///dev/ttyX"])
    assert (one.place, one.description and one.description.likely_kind) == (Place(right, 3), DeviceKind.METER)


async def test_a_serial_port_on_which_nobody_answers_says_what_was_tried() -> None:
    [one] = await Scan((1,), 0.1, line=Network({a: of() for a in serial_addresses()})).run(["rtu:///dev/ttyX"])
    assert "baudrate=115200 parity=E" in one.problem
    assert "A and B swapped" in one.problem


async def test_a_serial_port_that_cannot_be_opened_is_tried_once() -> None:
    network = Network({})
    [one] = await Scan((1, 2), 0.1, line=network).run(["rtu:///dev/ttyX"])
    assert len(network.opened) == 1
    assert one.problem


def serial_addresses() -> list[str]:
    return [f"rtu:///dev/ttyX?{settings}" for settings in SERIAL_SETTINGS]


def test_a_row_says_what_is_there_or_why_nothing_is() -> None:
    assert found(1, PV).cells()[2] == "Maker Model X, serial 123"
    assert found(1, None, "no answer").cells() == ["tcp://192.0.2.1:502", "1", "no answer", ""]
    assert found(1, None, "no answer").as_json()["problem"] == "no answer"
    assert found(1, PV).as_json()["kind"] == "pv"
