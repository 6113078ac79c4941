"""What was agreed and offered, as people and monitors see it."""

from __future__ import annotations

from dataclasses import asdict, replace

import orjson
from prometheus_client import CollectorRegistry, generate_latest

from agent.cli.status import agreed_sentences
from agent.control.deviation import Deviation, DeviationBook, Sums
from agent.control.envelope import Envelope
from agent.control.feed_keeper import FeedLine
from agent.control.missed_windows import MissedWindows
from agent.control.schedule_keeper import ScheduleLine
from agent.roads import overview
from agent.status import Snapshot
from agent.web.metrics import SnapshotCollector
from tests.agent.control.support import HOUR_US, START_US
from tests.agent.roads.test_overview import CONTROL, parts

QUARTER = Deviation(
    start_us=START_US, schedule_hash=bytes(32), scheduled_wh=-1_000, delivered_wh=-750, excused=False, estimated=False,
    reason="rating", under_wh=250, penalty_micro=2_500, currency="EUR",
)  # fmt: skip
BOOK = DeviationBook(closed=(QUARTER,), under_wh=250, penalties_micro={"EUR": 2_500_000}, quarters=1)
LINE = ScheduleLine(
    schedule_hash=bytes(32), issuer="grid", targets=("battery",), at_connection=False, start_us=START_US,
    end_us=START_US + HOUR_US, power_w=-4_000, in_force=True, reason="",
    deviation=Sums(quarters=1, under_wh=250), open_scheduled_wh=-400, open_delivered_wh=-300,
)  # fmt: skip
FEED = FeedLine(feed="price", value=210_000, currency="EUR", age_s=3.0, sources=2, doubt="")


def as_json(shown: Snapshot) -> object:
    """As it comes over the socket."""
    return orjson.loads(orjson.dumps(asdict(shown)))


def test_schedule_deviation_feeds_and_envelope_are_in_the_status_and_its_sentences() -> None:
    control = replace(CONTROL, schedules=(LINE,), deviations=BOOK, feeds=(FEED,))
    shown = overview.snapshot(parts(control=control, envelope=Envelope(power_up_w=5_000)))
    assert shown.schedules[0].text == (
        "-4000 W at battery, agreed with grid from 2027-01-15 08:00Z until 2027-01-15 09:00Z"
    )
    assert (shown.deviation.under_wh, shown.deviation.last[0].penalty_micro) == (250, 2_500)
    assert shown.envelope.power_up_w == 5_000
    said = " ".join(agreed_sentences(as_json(shown)))
    assert "Schedule in force: -4000 W at battery" in said
    assert "this quarter -400 Wh agreed so far, -300 Wh metered; 250 Wh short and 0 Wh over in 1 quarters" in said
    assert shown.deviation.last[0].schedule == shown.schedules[0].schedule == "000000000000"
    assert "250 Wh short, 0 Wh over; would cost 2.50 EUR" in said
    assert "0.2100 EUR per kWh, by 2 sources" in said


def test_monitors_see_the_same() -> None:
    control = replace(CONTROL, deviations=BOOK, feeds=(FEED,))
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: overview.snapshot(parts(control=control))))
    text = generate_latest(registry).decode()
    assert 'v2g_gateway_schedule_penalty_total{currency="EUR"} 2.5' in text
    assert "v2g_gateway_schedule_under_watt_hours_total 250.0" in text
    assert 'v2g_gateway_feed_value{currency="EUR",feed="price"} 210000.0' in text


def test_windows_that_the_platform_missed_are_a_problem_with_what_to_do() -> None:
    derated = overview.snapshot(parts(windows=MissedWindows(window=1, in_a_row=2)))
    assert "counts on 10 % less" in derated.sentence
    removed = overview.snapshot(parts(windows=MissedWindows(window=1, in_a_row=4, removed=True)))
    assert "envelope --looked" in removed.sentence
    assert removed.envelope.derated_permille == 0


def test_a_site_without_agreements_says_nothing_of_them() -> None:
    assert agreed_sentences(as_json(overview.snapshot(parts()))) == []
