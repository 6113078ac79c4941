"""What was agreed and what is offered, as the faces show it: schedules, deviation, envelope, missed windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.control.deviation import DeviationBook
from agent.control.envelope import Envelope
from agent.control.feed_keeper import FeedLine
from agent.control.missed_windows import DERATED_AFTER, MissedWindows
from agent.control.schedule import clock
from agent.control.schedule_keeper import ScheduleLine
from agent.status import AgreedLine, DeviationLine, DeviationQuarter, EnvelopeLine, FeedStatus, Problem, Verdict

MOST_QUARTERS: Final = 8


def agreed_line(line: ScheduleLine) -> AgreedLine:
    """One schedule."""
    where = "at the connection" if line.at_connection else "at " + (", ".join(line.targets) or "all devices")
    what = "nothing for this quarter of an hour" if line.power_w is None else f"{line.power_w:+} W {where}"
    return AgreedLine(
        text=f"{what}, agreed with {line.issuer} from {clock(line.start_us)} until {clock(line.end_us)}",
        power_w=line.power_w,
        start_us=line.start_us,
        end_us=line.end_us,
        in_force=line.in_force,
        reason=line.reason,
        schedule=_short(line.schedule_hash),
        quarters=line.deviation.quarters,
        under_wh=line.deviation.under_wh,
        over_wh=line.deviation.over_wh,
        open_scheduled_wh=line.open_scheduled_wh,
        open_delivered_wh=line.open_delivered_wh,
    )


def deviation_line(book: DeviationBook) -> DeviationLine:
    """The sums and the last quarters."""
    return DeviationLine(
        quarters=book.quarters,
        under_wh=book.under_wh,
        over_wh=book.over_wh,
        penalties_micro=dict(book.penalties_micro),
        last=tuple(
            DeviationQuarter(
                start_us=quarter.start_us,
                schedule=_short(quarter.schedule_hash),
                scheduled_wh=quarter.scheduled_wh,
                delivered_wh=quarter.delivered_wh,
                under_wh=quarter.under_wh,
                over_wh=quarter.over_wh,
                penalty_micro=quarter.penalty_micro,
                currency=quarter.currency,
                excused=quarter.excused,
                reason=quarter.reason,
            )
            for quarter in book.closed[-MOST_QUARTERS:]
        ),
    )


def envelope_line(offered: Envelope, windows: MissedWindows) -> EnvelopeLine:
    """What is offered."""
    return EnvelopeLine(
        power_up_w=offered.power_up_w,
        power_down_w=offered.power_down_w,
        energy_up_wh=offered.energy_up_wh,
        energy_down_wh=offered.energy_down_wh,
        ramp_up_w_per_min=offered.ramp_up_w_per_min,
        ramp_down_w_per_min=offered.ramp_down_w_per_min,
        minimum_soc_percent=_percent(offered.minimum_soc_permille),
        maximum_soc_percent=_percent(offered.maximum_soc_permille),
        why_not=offered.why_not,
        windows_missed=windows.total,
        windows_missed_in_a_row=windows.in_a_row,
        derated_permille=windows.permille,
    )


def feed_lines(feeds: Sequence[FeedLine]) -> tuple[FeedStatus, ...]:
    """The feeds."""
    return tuple(
        FeedStatus(
            feed=line.feed,
            value=line.value,
            currency=line.currency,
            age_s=round(line.age_s, 1),
            sources=line.sources,
            doubt=line.doubt,
        )
        for line in feeds
    )


def windows_problems(windows: MissedWindows) -> list[Problem]:
    """What the platform does about windows that it missed."""
    if windows.removed:
        sentence = (
            "the platform missed four windows in a row and dispatches this site no more until a person has looked; "
            "when the link is well and the platform's operator knows: v2g-gateway envelope --looked"
        )
        return [Problem(severity=Verdict.ATTENTION, subject="dispatch", sentence=sentence)]
    if windows.in_a_row >= DERATED_AFTER:
        sentence = f"the platform missed {windows.in_a_row} windows in a row and counts on 10 % less"
        return [Problem(severity=Verdict.ATTENTION, subject="dispatch", sentence=sentence)]
    return []


def _short(schedule_hash: bytes) -> str:
    return schedule_hash.hex()[:12]


def _percent(permille: int | None) -> float | None:
    return None if permille is None else permille / 10
