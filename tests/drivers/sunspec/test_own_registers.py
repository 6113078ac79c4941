"""Which registers a function of control may write at all, by the definitions: SAFETY 4, and flash that wears."""

from __future__ import annotations

import pytest

from drivers.device import DeviceKind
from drivers.sunspec.codec import layout
from drivers.sunspec.controls import (
    CONNECT_123,
    CONNECT_703,
    LIMIT_123,
    LIMIT_704,
    SETPOINT_704,
    STORAGE_124,
    ControlFunction,
)
from tests.drivers.sunspec.fakes import common, definition, device_of, inverter_701, model_words
from tests.drivers.sunspec.orders import Rig

EVERY_FUNCTION = (LIMIT_704, LIMIT_123, SETPOINT_704, STORAGE_124, CONNECT_703, CONNECT_123)


def registers_of(function: ControlFunction) -> list[int]:
    """Offsets from the model's ID, of all that it may write."""
    fields = layout(definition(function.model), 1000).fields
    return sorted(at for run in function.runs for path in run for at in range(fields[path].offset, fields[path].end))


def test_of_model_704_only_what_is_active_power_is_ours() -> None:
    # Beside them lie anti-islanding, power factor and reactive power.
    assert registers_of(LIMIT_704) == list(range(14, 20))
    assert registers_of(SETPOINT_704) == list(range(22, 33))


def test_a_revert_time_has_one_register_in_123_and_two_in_704() -> None:
    for function, size in ((LIMIT_123, 1), (LIMIT_704, 2), (SETPOINT_704, 2), (STORAGE_124, 1)):
        assert layout(definition(function.model), 1000).fields[function.timer].point.size == size


@pytest.mark.parametrize("function", EVERY_FUNCTION, ids=lambda function: function.name)
def test_an_order_is_in_a_model_of_controls_and_never_in_a_setting_that_a_device_keeps_for_good(
    function: ControlFunction,
) -> None:
    # 121 and 702 are settings, 703's ramps and 123's power factor are the grid code's: they are kept in flash.
    assert function.model in {704, 123, 124, 703}
    settings = ("Rmp", "Dly", "Rnd", "PF", "Var", "VAr", "AntiIsl", "WChaMax", "WChaGra", "MinRsvPct", "Hi", "Lo")
    own = [path for run in function.runs for path in run if not path.endswith("_RmpTms")]
    assert not [path for path in own if path.startswith(settings)]
    assert set(function.one_by_one) == {path for run in function.runs for path in run}


async def test_a_battery_with_model_802_alone_cannot_be_told_its_power() -> None:
    gauge = model_words(802, {"WHRtg": 9000, "WHRtg_SF": 0, "SoC": 61, "SoC_SF": 0, "SetOp": 1, "SetInvState": 1})
    device = device_of([common(), inverter_701(), gauge])
    rig = await Rig(device, DeviceKind.BATTERY).ready()
    found = rig.device.status().capabilities
    assert found is not None
    assert not found.follows_setpoint
    assert "cannot be controlled: no usable model 704, 123 or 124" in found.notes
    assert device.writes == []
