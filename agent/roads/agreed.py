"""What was agreed beforehand, as the faces show it: schedules, and how far the site is from them."""

from __future__ import annotations

from typing import Final

from agent.control.deviation import DeviationBook
from agent.control.schedule import clock
from agent.control.schedule_keeper import ScheduleLine
from agent.status import AgreedLine, DeviationLine, DeviationQuarter

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
        open_scheduled_wh=None if book.open is None else int(book.open.scheduled_milliwatt_seconds / 3_600_000),
        open_delivered_wh=None if book.open is None else book.open.delivered_wh(),
    )
