"""`v2g-gateway scan`: where to ask, and that what it prints is ready configuration."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import scan as module
from agent.cli.scan import Found, Place, configuration, places, scan
from agent.config import Settings
from drivers.device import DeviceKind
from drivers.sunspec.discovery import DeviceDescription, FoundModel
from drivers.sunspec.errors import BadAnswerError, NoAnswerError, SunSpecError


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


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "tcp://192.0.2.1:502"),
        ("meter.local:1502", "tcp://meter.local:1502"),
        ("tcp://192.0.2.1:5020", "tcp://192.0.2.1:5020"),
        ("[2001:db8::1]", "tcp://[2001:db8::1]:502"),
        ("[2001:db8::1]:1502", "tcp://[2001:db8::1]:1502"),
    ],
)
def test_a_host_is_asked_at_its_port_or_at_502(host: str, address: str) -> None:
    assert places([host], "1") == [Place(address, 1)]


@pytest.mark.parametrize("host", ["", "a b", "2001:db8::1", "host:port", "host:", "http://host", "host/path"])
def test_what_is_no_host_is_refused_with_what_would_be_right(host: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        places([host], "1")


def test_every_host_is_asked_for_every_unit() -> None:
    asked = places(["a", "b"], "1-2, 126")
    assert [(p.address, p.unit) for p in asked] == [
        (f"tcp://{host}:502", unit) for host in "ab" for unit in (1, 2, 126)
    ]


@pytest.mark.parametrize("units", ["", "x", "3-1", "248", "1-999", "-1", "1,,2", "1-2-3", "1.5"])
def test_units_that_no_device_has_are_refused(units: str) -> None:
    with pytest.raises(ValueError, match="from 0 to 247"):
        places(["a"], units)


@given(st.text(max_size=20))
def test_any_text_is_units_or_refused(units: str) -> None:
    try:
        asked = places(["a"], units)
    except ValueError:
        return
    assert all(0 <= place.unit <= 247 for place in asked)


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


@pytest.mark.parametrize("error", [NoAnswerError("nobody there"), BadAnswerError("no Modbus")])
async def test_a_place_that_does_not_answer_ends_no_scan(monkeypatch: pytest.MonkeyPatch, error: SunSpecError) -> None:
    async def discover(address: str, unit: int, *, timeout_s: float) -> DeviceDescription:
        if unit == 1:
            raise error
        return PV

    monkeypatch.setattr(module, "discover", discover)
    asked: list[str] = []
    first, second = await scan(places(["a"], "1-2"), 1.0, asked.append)
    assert (first.description, first.problem) == (None, str(error))
    assert second.description is PV
    assert asked == ["tcp://a:502 unit 1", "tcp://a:502 unit 2"]


def test_a_row_says_what_is_there_or_why_nothing_is() -> None:
    assert found(1, PV).cells()[2] == "Maker Model X, serial 123"
    assert found(1, None, "no answer").cells() == ["tcp://192.0.2.1:502", "1", "no answer", ""]
    assert found(1, None, "no answer").as_json()["problem"] == "no answer"
    assert found(1, PV).as_json()["kind"] == "pv"
