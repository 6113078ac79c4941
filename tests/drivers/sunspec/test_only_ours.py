"""SAFETY 4 as a property: whatever is ordered of whichever device, a write covers the registers of its one function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.device import DeviceError, DeviceKind
from tests.drivers.sunspec.fakes import FakeDevice, battery, pv
from tests.drivers.sunspec.orders import Rig, older_battery, older_pv, registers_of
from tests.drivers.sunspec.test_control import LIMIT_123, LIMIT_704, SETPOINT_704, STORAGE_124

_LOW = st.none() | st.integers(-20_000, 0)
_HIGH = st.none() | st.integers(0, 20_000)
_POINT = st.integers(-20_000, 20_000).map(lambda watts: (watts, watts))
_ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.one_of(st.tuples(_LOW, _HIGH), _POINT)),
        st.tuples(st.sampled_from(["release", "silence", "look"]), st.just((0, 0))),
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("make", "kind", "model", "own"),
    [
        (pv, DeviceKind.PV, 704, LIMIT_704),
        (older_pv, DeviceKind.PV, 123, LIMIT_123),
        (battery, DeviceKind.BATTERY, 704, (*LIMIT_704, *SETPOINT_704)),
        (older_battery, DeviceKind.BATTERY, 124, STORAGE_124),
    ],
)
@given(acts=_ACTS, share=st.none() | st.integers(0, 8_000))
@settings(max_examples=40, deadline=None)
def test_whatever_is_ordered_other_registers_stay(
    make: Callable[[], FakeDevice],
    kind: DeviceKind,
    model: int,
    own: tuple[str, ...],
    acts: list[tuple[str, tuple[int | None, int | None]]],
    share: int | None,
) -> None:
    device = make()
    before, allowed = dict(device.registers), registers_of(device, model, own)
    asyncio.run(_act(device, kind, acts, share))
    assert device.written_registers() <= allowed
    others = {at: word for at, word in device.registers.items() if at not in allowed}
    assert others == {at: word for at, word in before.items() if at not in allowed}


async def _act(
    device: FakeDevice,
    kind: DeviceKind,
    acts: list[tuple[str, tuple[int | None, int | None]]],
    share: int | None,
) -> None:
    made = Rig(device, kind) if share is None else Rig(device, kind, fallback_export_w=share)
    rig = await made.ready()
    for act, band in acts:
        try:
            if act == "hold":
                await rig.hold(*band)
            elif act == "release":
                await rig.device.release()
            elif act == "silence":
                rig.time.now_s += 1_000
                await rig.device.end_leases()
            else:
                rig.time.now_s += 30
                await rig.device.look()
        except DeviceError:
            continue  # what the device cannot do it refuses; what was written until then counts all the same
