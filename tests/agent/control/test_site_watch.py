"""What the site is like from plan to plan: safe mode, and the return after it, after the grid and after a boot."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.config import ControlSettings, DeviceSettings, FrequencySettings, SiteSettings
from agent.control.onlooker import Onlooker
from agent.control.order import Now
from agent.control.site import Held, SiteView
from agent.control.site_watch import METER_PATIENCE_S, SiteWatch
from agent.control.viewing import SAFE_MODE_DWELL_S, settings_view
from agent.evidence.statements import Severity
from drivers.device import DeviceKind, DeviceStatus, LinkState, Sample, SampleFlag
from tests.agent.control.support import BATTERY, START_US, capabilities

RECONNECT_DELAY_S = 60
DEVICES = [
    DeviceSettings.model_validate({"id": "grid", "kind": "meter", "driver": "sunspec", "address": "tcp://h"}),
    DeviceSettings.model_validate(
        {"id": "battery", "kind": "battery", "driver": "sunspec", "address": "tcp://h2", "parent": "grid",
         "rated_import_w": 10_000, "rated_export_w": 10_000}
    ),
]  # fmt: skip


@dataclass
class Site:
    """Two devices whose words a test sets, a watch over them, and what it has said."""

    booted: bool = False
    flags: SampleFlag = SampleFlag.NONE
    meter_w: int | None = 500
    battery_w: int = 0
    frequency_millihertz: int | None = 50_000
    response: bool = True
    said: list[tuple[str, str]] = field(default_factory=list)
    now_s: float = 1_000.0

    def __post_init__(self) -> None:
        self.watch = SiteWatch(
            settings_view(SiteSettings(), ControlSettings(), FrequencySettings(response=self.response), DEVICES),
            Onlooker(
                {"grid": _Device(self, "grid", DeviceKind.METER), "battery": _Device(self, "battery", BATTERY.kind)}
            ),
            held=lambda _: Held(lowest_w=None, highest_w=None),
            say=self._say,
            started_s=self.now_s,
            booted=self.booted,
            draw=lambda: 0.5,
        )

    def _say(self, _: Severity, code: str, __: str, text: str) -> None:
        self.said.append((code, text))

    def look(self, after_s: float = 1.0) -> SiteView:
        self.now_s += after_s
        return self.watch.look(Now(wall_us=START_US), self.now_s, orders=(), stop=None)

    @property
    def codes(self) -> list[str]:
        return [code for code, _ in self.said]


@dataclass
class _Device:
    site: Site
    device_id: str
    kind: DeviceKind

    def status(self) -> DeviceStatus:
        power_w = self.site.meter_w if self.kind is DeviceKind.METER else self.site.battery_w
        sample = Sample(
            device_id=self.device_id,
            monotonic_s=self.site.now_s,
            power_w=power_w,
            frequency_millihertz=self.site.frequency_millihertz if self.kind is DeviceKind.METER else None,
            flags=self.site.flags,
        )
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=LinkState.ONLINE,
            detail="",
            capabilities=capabilities(
                10_000, 10_000, reconnect_delay_s=RECONNECT_DELAY_S if self.device_id == "battery" else 1
            ),
            last_sample=sample,
        )

    async def run(self, emit: object) -> None: ...
    async def apply(self, setpoint: object) -> None: ...
    async def release(self) -> None: ...


def test_a_start_in_a_running_machine_is_no_return() -> None:
    assert Site().look().coming_back is None


def test_a_boot_is_one_that_waits_and_ends_by_itself() -> None:
    site = Site(booted=True)
    seen = site.look().coming_back
    assert seen is not None
    assert (seen.wait_s, seen.allowance_permille) == (300, 0)
    assert site.codes == ["site.coming_back"]
    halfway = site.look(after_s=600).coming_back
    assert halfway is not None
    assert 450 < halfway.allowance_permille < 550
    assert site.look(after_s=600).coming_back is None


def test_grid_return_and_the_end_of_safe_mode_are_returns() -> None:
    site = Site()
    site.look()
    site.flags = SampleFlag.ISLANDED
    assert site.look().islanded
    site.flags = SampleFlag.NONE
    view = site.look()
    assert view.coming_back is not None
    assert view.coming_back.wait_s == 300 + RECONNECT_DELAY_S
    assert "the public grid is back" in site.said[-1][1]
    site.look(after_s=SAFE_MODE_DWELL_S)
    view = site.look(after_s=1)
    assert view.coming_back is not None
    assert view.coming_back.why == "safe mode has ended"
    # The devices' own delay is not over with it (SAFETY 7).
    assert view.coming_back.wait_s == max(300, 300 + RECONNECT_DELAY_S - SAFE_MODE_DWELL_S)


def test_a_meter_that_never_speaks_is_waited_for_a_little() -> None:
    site = Site(meter_w=10**9)
    assert site.look().safe_mode is not None
    assert METER_PATIENCE_S > 0


def test_a_frequency_event_is_said_at_its_beginning_and_with_its_trace_at_its_end() -> None:
    site = Site()
    site.look()
    site.frequency_millihertz = 49_700
    assert site.look().frequency.side == -1
    for _ in range(500):
        site.look()
    site.frequency_millihertz = 50_000
    assert site.look().frequency.side == 0
    assert site.codes == ["site.frequency", "site.frequency_event"]
    text = site.said[-1][1]
    assert "49.700 Hz" in text
    assert "-4.0 %" in text
    assert 32 <= text.count(";") <= 66
    assert len(text) < 4_000


def test_a_frequency_that_is_lost_is_said_once_where_it_is_answered() -> None:
    for response, codes in ((True, ["site.frequency_unknown"]), (False, [])):
        site = Site(response=response)
        site.look()
        site.frequency_millihertz = None
        for _ in range(20):
            site.look()
        assert site.codes == codes


def test_a_meter_with_the_wrong_sign_is_safe_mode_with_its_name_and_counts_as_lost() -> None:
    """SAFETY 8: reversed."""
    site = Site()
    for battery_w in (0, 5_000, 0, 5_000, 0):
        site.battery_w, site.meter_w = battery_w, 500 - battery_w
        view = site.look(after_s=10)
    assert view.meter is None
    assert "the grid meter grid counts the wrong way" in (view.safe_mode or "")
    assert site.codes == ["site.safe_mode"]
    for battery_w in (5_000, 0, 5_000):
        site.battery_w, site.meter_w = battery_w, 500 + battery_w
        view = site.look(after_s=10)
    assert view.meter is not None
