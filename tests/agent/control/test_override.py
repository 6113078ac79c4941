"""Holds by hand: above every setpoint, below every rule; with an end, and kept over restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.book import Book, Outcome
from agent.control.command import CommandType, Point
from agent.control.errors import NotNowError, RestoreError
from agent.control.holds import Holds
from agent.control.order import Now
from agent.control.override import LONGEST_S, Override, OverrideError, decode, encode, override_for
from agent.control.plan import Plan, make_plan
from agent.control.site import SiteView
from agent.evidence.statements import CommandState, Severity
from drivers.device import DeviceKind, DeviceStatus, LinkState
from tests.agent.control.strategies import sites
from tests.agent.control.support import (
    BATTERY,
    CAR,
    HOUR_US,
    LIMITS,
    NOW,
    PV,
    SOME_COMMAND,
    START_US,
    V2G_SESSION,
    capabilities,
    curtail,
    order_of,
    site,
)

HOLD = Override(device_id="battery", power_w=2_000, since_us=START_US, until_us=START_US + HOUR_US, by="owner")


def _held(view: SiteView, *holds: Override) -> SiteView:
    return replace(view, overrides={hold.device_id: hold for hold in holds})


def _band(plan: Plan, name: str = "battery") -> tuple[int | None, int | None]:
    return plan.orders[name].lowest_w, plan.orders[name].highest_w


def test_a_hold_goes_before_a_command_whose_receipt_says_so() -> None:
    order = order_of(SOME_COMMAND)
    plan = make_plan(_held(site(orders=(order,)), HOLD))
    assert _band(plan) == (2_000, 2_000)
    assert "held at 2000 W locally by owner until" in plan.orders["battery"].reason
    command = plan.commands[order.hash]
    assert command.short
    assert "held at 2000 W locally by owner" in command.reason
    assert "battery is held" in command.outcome.held


def test_a_released_device_is_left_to_itself_and_not_brought_to_rest_beside_a_connection_target() -> None:
    hold = replace(HOLD, power_w=None)
    target = order_of(replace(SOME_COMMAND, targets=(), point=Point.CONNECTION, power_w=4_000))
    plan = make_plan(_held(site(BATTERY, CAR, orders=(target,)), hold))
    assert plan.orders["battery"].released
    assert "left to itself locally by owner" in plan.orders["battery"].reason
    assert plan.orders["car"].lowest_w == -5_000  # the other device carries the target alone
    assert "battery is left to itself" in plan.commands[target.hash].held


def test_the_other_devices_of_a_command_go_on_and_make_up_for_what_is_held() -> None:
    both = order_of(replace(SOME_COMMAND, targets=("battery", "car"), power_w=6_000))
    plan = make_plan(_held(site(BATTERY, CAR, orders=(both,)), replace(HOLD, power_w=0)))
    assert _band(plan) == (0, 0)
    assert _band(plan, "car") == (-6_000, -6_000)
    assert plan.commands[both.hash].in_force


def test_a_limit_by_command_the_connection_and_stop_still_bind_a_hold() -> None:
    out = replace(HOLD, power_w=-9_000)
    limited = make_plan(_held(site(BATTERY, orders=(order_of(curtail(2_000)),)), out))
    assert _band(limited) == (-2_000, -2_000)
    narrow = replace(LIMITS, export_limit_w=3_000)
    assert _band(make_plan(_held(site(BATTERY, house_w=0, limits=narrow), out))) == (-3_000, -3_000)
    assert _band(make_plan(_held(site(BATTERY, stop="me"), out))) == (0, 0)


def test_a_driver_who_wants_to_charge_now_goes_before_a_hold() -> None:
    hurried = replace(CAR, vehicle=replace(V2G_SESSION, charge_now=True))
    plan = make_plan(_held(site(hurried), replace(HOLD, device_id="car", power_w=0)))
    assert plan.orders["car"].highest_w == 11_000


@given(sites(), st.sampled_from(["battery", "pv", "car", "plain"]), st.none() | st.integers(-12_000, 12_000))
def test_a_hold_never_leaves_the_ratings_and_never_survives_stop(
    view: SiteView, name: str, power_w: int | None
) -> None:
    plan = make_plan(_held(view, replace(HOLD, device_id=name, power_w=power_w)))
    for device_id, order in plan.orders.items():
        device = view.devices[device_id]
        if order.highest_w is not None and device.capabilities is not None:
            assert order.highest_w <= max(device.most_import_w, 0)
        if view.stop is not None and device.kind is not DeviceKind.PV:
            assert (order.lowest_w, order.highest_w) == (0, 0)
    assert plan == make_plan(_held(view, replace(HOLD, device_id=name, power_w=power_w)))


def test_a_command_that_was_accepted_becomes_partial_once_and_still_ends_once() -> None:
    order = order_of(SOME_COMMAND)
    book = Book().admitted(order, CommandState.ACCEPTED, "", NOW).book.committed(order.hash)
    went = Outcome(in_force=True, reason="", responded=True)
    held = Outcome(in_force=True, reason="", responded=True, held="battery is held at 0 W locally by owner")
    states = []
    for outcome in (went, held, held, went, held):
        change = book.observe({order.hash: outcome}, {}, NOW)
        states += [receipt.state for receipt in change.receipts]
        book = change.book
    assert states == [CommandState.EXECUTING, CommandState.PARTIAL]
    ended = book.settle(Now(wall_us=SOME_COMMAND.end_us))
    assert [receipt.state for receipt in ended.receipts] == [CommandState.COMPLETED]


# -- how long it holds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan"), float("inf"), LONGEST_S + 1])
def test_a_hold_without_a_sensible_end_is_refused(duration_s: float) -> None:
    with pytest.raises(OverrideError, match="7 days"):
        override_for("battery", 0, duration_s, "me", NOW)


@given(st.integers(-(10**6), 10**6), st.integers(1, 7 * 86_400))
def test_nobodys_clock_moves_the_end_of_a_hold(jump_s: int, duration_s: int) -> None:
    begun = Now(wall_us=START_US, uptime_us=5_000_000)
    hold = override_for("battery", 1_000, duration_s, "me", begun)
    jumped = START_US + jump_s * 1_000_000
    before, after = begun.uptime_us + duration_s * 1_000_000 - 1, begun.uptime_us + duration_s * 1_000_000
    assert hold.stands(Now(wall_us=jumped, uptime_us=before))
    assert not hold.stands(Now(wall_us=jumped, uptime_us=after))


def test_after_a_reboot_without_time_rest_holds_and_power_waits() -> None:
    lost = Now(wall_us=0, time_known=False, uptime_us=60_000_000)
    assert replace(HOLD, power_w=0).stands(lost)
    assert not HOLD.stands(lost)
    assert not HOLD.over(lost)
    assert HOLD.stands(replace(NOW, wall_us=START_US + 1))
    assert HOLD.over(replace(NOW, wall_us=HOLD.until_us))


@given(
    st.builds(
        Override,
        device_id=st.text(max_size=20),
        power_w=st.none() | st.integers(-(2**40), 2**40),
        since_us=st.integers(0, 2**52),
        until_us=st.just(0),
        by=st.text(max_size=40),
    ),
    st.integers(1, round(LONGEST_S * 1e6)),
)
def test_a_hold_comes_back_from_the_store(hold: Override, duration_us: int) -> None:
    hold = replace(hold, until_us=hold.since_us + duration_us)
    assert decode(encode(hold)) == hold
    assert hold.sentence


@pytest.mark.parametrize(
    ("since_us", "until_us"),
    [(START_US, 2**62), (-(2**62), START_US), (START_US, START_US), (START_US, START_US + 8 * 24 * HOUR_US)],
)
def test_a_stored_hold_with_an_end_that_nobody_can_have_meant_is_said_and_not_followed(
    since_us: int, until_us: int
) -> None:
    """Its sentence would stop every plan."""
    note = encode(replace(HOLD, since_us=since_us, until_us=until_us))
    keeping = Keeping()
    assert "hold note" in keeping.holds.restore({"command/hold/battery": note})[0]
    assert keeping.holds.standing(NOW) == {}


def test_a_stored_hold_under_the_name_of_another_device_is_said_and_not_followed() -> None:
    keeping = Keeping()
    assert "battery" in keeping.holds.restore({"command/hold/pv": encode(HOLD)})[0]
    assert keeping.holds.standing(NOW) == {}


@given(st.binary(max_size=40))
def test_a_damaged_hold_is_said(note: bytes) -> None:
    with pytest.raises(RestoreError):
        decode(note)


class Keeping:
    """Where holds are kept, by hand."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.said: list[str] = []
        self.waiting: list[Override] = []
        self.holds = self.made()

    def made(self) -> Holds:
        status = DeviceStatus(
            device_id="battery", kind=DeviceKind.BATTERY, link=LinkState.ONLINE, detail="",
            capabilities=capabilities(10_000, 8_000),
        )  # fmt: skip
        return Holds({"battery": lambda: status}, say=self.say, keep=self.keep)

    def keep(self, notes: Mapping[str, bytes | None], hold: Override | None) -> None:
        for key, note in notes.items():
            if note is None:
                self.notes.pop(key, None)
            else:
                self.notes[key] = note
        if hold is not None:
            self.waiting.append(hold)

    def say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self.said.append(code)


def test_power_waits_for_the_store_and_rest_does_not() -> None:
    keeping = Keeping()
    keeping.holds.begin("battery", 3_000, 60, "me", NOW)
    assert keeping.holds.standing(NOW) == {}
    keeping.holds.committed(keeping.waiting.pop())
    assert keeping.holds.standing(NOW)["battery"].power_w == 3_000
    keeping.holds.begin("battery", 0, 60, "me", NOW)
    assert keeping.holds.standing(NOW)["battery"].power_w == 0


def test_rest_stays_until_the_store_has_the_power_that_follows_it() -> None:
    """DESIGN, law 5: a hold that is only said yet must not give the device back to commands."""
    keeping = Keeping()
    keeping.holds.begin("battery", 0, 60, "me", NOW)
    keeping.holds.begin("battery", 3_000, 60, "me", NOW)
    assert keeping.holds.standing(NOW)["battery"].power_w == 0
    over = replace(NOW, wall_us=START_US + 59_999_999, uptime_us=59_999_999)
    keeping.holds.begin("battery", 2_000, 60, "me", over)
    gone = replace(NOW, wall_us=START_US + 60_000_000, uptime_us=60_000_000)
    assert keeping.holds.standing(gone) == {}
    assert decode(keeping.notes["command/hold/battery"]).power_w == 2_000
    for committed in keeping.waiting:
        keeping.holds.committed(committed)
    assert keeping.holds.standing(gone)["battery"].power_w == 2_000
    keeping.holds.begin("battery", 1_000, 60, "me", gone)
    keeping.holds.end("battery", "me")
    keeping.holds.committed(keeping.waiting.pop())
    assert keeping.holds.standing(gone) == {}
    assert keeping.notes == {}


def test_after_a_restart_a_clock_that_was_set_back_makes_no_hold_longer() -> None:
    again = Keeping()
    again.holds.restore({"command/hold/battery": encode(HOLD)})
    back = Now(wall_us=START_US - 24 * HOUR_US, uptime_us=5)
    assert again.holds.standing(back)["battery"].power_w == 2_000
    assert again.holds.standing(replace(back, wall_us=back.wall_us + HOUR_US, uptime_us=5 + HOUR_US)) == {}


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_the_lease_of_a_hold_goes_on_over_a_clock_that_was_set(jump_s: int) -> None:
    """Else the device falls to its fallback while the plan still says that it is held."""
    hold = override_for("battery", 2_000, 3_600, "me", NOW)
    set_clock = Now(wall_us=START_US + jump_s * 1_000_000, uptime_us=NOW.uptime_us + 600_000_000)
    order = make_plan(_held(site(BATTERY, now=set_clock), hold)).orders["battery"]
    assert order.authority_s == pytest.approx(3_000)


def test_a_hold_is_there_after_a_restart_and_its_end_is_said_once() -> None:
    keeping = Keeping()
    keeping.holds.begin("battery", 3_000, 60, "me", NOW)
    again = keeping.made()
    assert again.restore(keeping.notes) == []
    assert again.standing(NOW)["battery"].power_w == 3_000
    later = replace(NOW, wall_us=START_US + 61_000_000, uptime_us=61_000_000)
    assert again.standing(later) == {}
    assert again.standing(later) == {}
    assert keeping.said == ["device.override", "device.override_ended"]
    assert keeping.notes == {}


@pytest.mark.parametrize(("name", "power_w"), [("toaster", 0), ("battery", 10_001), ("battery", -8_001)])
def test_what_cannot_be_held_is_refused_with_what_could(name: str, power_w: int) -> None:
    with pytest.raises(OverrideError, match="can"):
        Keeping().holds.begin(name, power_w, 60, "me", NOW)


def test_ending_what_is_not_held_is_an_error() -> None:
    with pytest.raises(NotNowError, match="not held"):
        Keeping().holds.end("battery", "me")


def test_sun_is_held_back_by_hand_as_by_a_limit() -> None:
    plan = make_plan(_held(site(PV, BATTERY), replace(HOLD, device_id="pv", power_w=0)))
    assert plan.orders["pv"].lowest_w == 0


def test_idle_from_the_network_gives_way_to_the_owner_too() -> None:
    idle = order_of(replace(SOME_COMMAND, type=CommandType.IDLE, power_w=0))
    plan = make_plan(_held(site(BATTERY, orders=(idle,)), HOLD))
    assert _band(plan) == (2_000, 2_000)
    assert not plan.commands[idle.hash].in_force


def test_on_an_island_a_hold_is_suspended_as_commands_are() -> None:
    """SAFETY 6: cars stop, and a battery keeps the island up."""
    car = replace(HOLD, device_id="car")
    plan = make_plan(_held(site(BATTERY, CAR, islanded=True), HOLD, car))
    assert _band(plan) == (None, None)
    assert _band(plan, "car") == (0, 0)
