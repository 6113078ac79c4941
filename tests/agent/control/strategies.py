"""What Hypothesis draws for the tests of control: any site, as far as one can be told from another."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from agent.control.command import Command, CommandType, Mode, Point
from agent.control.site import Held, MeterView, SiteView
from tests.agent.control.support import BATTERY, CAR, LIMITS, PLAIN, PV, SOME_COMMAND, order_of, site


@st.composite
def sites(draw: st.DrawFn) -> SiteView:
    """A site with some of the devices, orders and limits, silent, stopped and islanded ones among them."""
    devices = []
    for base in (BATTERY, PV, CAR, PLAIN):
        if not draw(st.booleans()):
            continue
        most, least = base.most_import_w, -base.most_export_w
        held = draw(
            st.none()
            | st.builds(lambda a, b: Held(lowest_w=-a, highest_w=b), st.integers(0, -least), st.integers(0, most))
        )
        devices.append(
            replace(
                base,
                online=draw(st.booleans()),
                power_w=draw(st.none() | st.integers(least, most)),
                held=held,
                state_of_charge_permille=draw(st.none() | st.integers(0, 1000)),
                fallback_import_w=draw(st.none() | st.integers(0, 11_000)),
            )
        )
    orders = []
    for number in range(draw(st.integers(0, 3))):
        mode = draw(st.sampled_from(Mode))
        types = [CommandType.CURTAIL] if mode is not Mode.SETPOINT else [CommandType.CHARGE, CommandType.DISCHARGE]
        command: Command = replace(
            SOME_COMMAND,
            mode=mode,
            type=draw(st.sampled_from(types)),
            point=draw(st.sampled_from(Point)),
            targets=tuple(draw(st.sets(st.sampled_from(["battery", "pv", "car", "plain"])))),
            power_w=draw(st.integers(0, 30_000)),
        )
        orders.append(order_of(command, f"c{number}"))
    view = site(*devices, house_w=draw(st.none() | st.integers(-2_000, 20_000)), orders=tuple(orders))
    limits = replace(
        LIMITS,
        import_limit_w=draw(st.integers(0, 50_000)),
        export_limit_w=draw(st.integers(0, 30_000)),
        discharge_permitted=draw(st.booleans()),
    )
    return replace(view, limits=limits, stop=draw(st.sampled_from([None, None, "me"])), islanded=draw(st.booleans()))


@st.composite
def following_sites(draw: st.DrawFn) -> SiteView:
    """A site of `sites` with a meter that follows commands: for rules that say nothing about the others."""
    view = draw(sites())
    house_w = draw(st.integers(-2_000, 20_000))
    metered_w = house_w + sum(device.present_w for device in view.devices.values())
    return replace(view, meter=MeterView(power_w=metered_w), stop=None, islanded=False)
