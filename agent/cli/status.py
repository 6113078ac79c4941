"""`v2g-gateway status`: the running agent's snapshot as a picture in the terminal."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from agent.cli.output import field, plain, table

_COLOURS = {"well": "green", "attention": "yellow", "trouble": "red"}
EXIT_CODES = {"well": 0, "attention": 0, "trouble": 2}


def picture(status: object) -> RenderableType:
    """The snapshot (as JSON) for a person: headline, devices, commands, evidence, what needs a look."""
    verdict = str(field(status, "verdict"))
    sentence = str(field(status, "safe_mode") or field(status, "sentence"))
    stopped_by = field(status, "stopped_by")
    if stopped_by and "STOP" not in sentence:
        sentence = f"STOP was pressed ({stopped_by}). {sentence}"
    colour = _COLOURS.get(verdict, "red")
    parts: list[RenderableType] = [
        Panel(Text(plain(sentence)), title=Text(plain(str(field(status, "name")))), border_style=colour),
        _devices(status),
    ]
    commands = field(status, "commands")
    if commands:
        parts.append(_commands(commands))
    parts += [Text(plain(line)) for line in agreed_sentences(status)]
    parts.append(_counts(status))
    problems = field(status, "problems")
    for problem in problems if isinstance(problems, list) else []:
        line = f"! {field(problem, 'subject')}: {field(problem, 'sentence')}"
        parts.append(Text(plain(line), style=colour))
    return Group(*parts)


def _devices(status: object) -> RenderableType:
    listed = field(status, "devices")
    rows = [
        [
            str(field(d, "device_id")),
            str(field(d, "link")),
            watts(field(d, "power_w")),
            "" if field(d, "state_of_charge_percent") is None else f"{field(d, 'state_of_charge_percent')} %",
            band(field(d, "lowest_w"), field(d, "highest_w")),
            str(
                field(d, "reason")
                or field(d, "vehicle")
                or ("" if field(d, "link") == "online" else field(d, "detail"))
            ),
        ]
        for d in (listed if isinstance(listed, list) else [])
    ]
    columns = ["Device", "Link", "Power", "Charge", "Held at", "Why"]
    connection = watts(field(status, "connection_power_w"))
    return table(f"At the connection: {connection}", columns, rows, right=["Power", "Charge"])


def _commands(commands: object) -> RenderableType:
    rows = [
        [
            ("> " if field(c, "in_force") else "  ") + str(field(c, "text")),
            str(field(c, "state")),
            _time(field(c, "start_us")),
            _time(field(c, "end_us")),
            str(field(c, "reason")),
        ]
        for c in (commands if isinstance(commands, list) else [])
    ]
    return table("Commands", ["Command", "State", "From", "Until", "Reason"], rows)


def agreed_sentences(status: object) -> list[str]:
    """The schedules, and how far the site is from them; nothing where nothing was ever agreed."""
    schedules, told = field(status, "schedules"), field(status, "deviation")
    found = [
        ("Schedule in force: " if field(line, "in_force") else "Schedule: ")
        + str(field(line, "text"))
        + (f"; {field(line, 'reason')}" if field(line, "reason") else "")
        + _course(line)
        for line in (schedules if isinstance(schedules, list) else [])
    ]
    feeds = field(status, "feeds")
    for feed in feeds if isinstance(feeds, list) else []:
        found.append(_feed(feed))
    if field(told, "quarters"):
        costs = field(told, "penalties_micro")
        paid = [
            f"{micro / 1e6:.2f} {currency}" for currency, micro in (costs if isinstance(costs, dict) else {}).items()
        ]
        found.append(
            f"Deviation over {field(told, 'quarters')} quarters of an hour: {field(told, 'under_wh')} Wh short, "
            f"{field(told, 'over_wh')} Wh over" + (f"; would cost {', '.join(paid)}" if paid else "")
        )
    return found


def _course(line: object) -> str:
    """How a schedule is kept: this quarter so far, and its own quarters that are over."""
    text = ""
    if field(line, "open_scheduled_wh") is not None:
        delivered = field(line, "open_delivered_wh")
        text += f"; this quarter {field(line, 'open_scheduled_wh')} Wh agreed so far, "
        text += "what flowed is not metered" if delivered is None else f"{delivered} Wh metered"
    if field(line, "quarters"):
        text += f"; {field(line, 'under_wh')} Wh short and {field(line, 'over_wh')} Wh over in "
        text += f"{field(line, 'quarters')} quarters"
    return text


def _feed(feed: object) -> str:
    value, doubt = field(feed, "value"), field(feed, "doubt")
    shown = "?"
    if isinstance(value, int):
        is_price = field(feed, "feed") == "price"
        shown = f"{value / 1e6:.4f} {field(feed, 'currency')} per kWh" if is_price else f"{value / 1000:.3f} Hz"
    text = f"Feed, {field(feed, 'feed')}: {shown}, by {field(feed, 'sources')} sources, {field(feed, 'age_s')} s ago"
    return text + (f"; {doubt}" if doubt else "")


def _counts(status: object) -> RenderableType:
    link = next((p for p in _parts(status) if field(p, "name") == "link"), None)
    return Text.assemble(
        ("Link ", "bold"),
        f"{field(link, 'state')}   ",
        ("Readings ", "bold"),
        f"{field(status, 'evidence', 'readings')} stored{_merged(status)}   ",
        ("Statements ", "bold"),
        f"{field(status, 'evidence', 'sealed')} sealed, {field(status, 'evidence', 'acknowledged')} acknowledged   ",
        ("Windows ", "bold"),
        f"{field(status, 'settlement', 'windows_countersigned')} of {field(status, 'settlement', 'windows_closed')} "
        f"signed by both sides{_counter(status)}",
    )


def _counter(status: object) -> str:
    counter = field(status, "settlement", "counter")
    return "" if counter is None else f", TPM counter at {counter}"


def _merged(status: object) -> str:
    merged = field(status, "evidence", "merged")
    return f", {merged} of them merged to save space" if merged else ""


def _parts(status: object) -> list[object]:
    parts = field(status, "parts")
    return parts if isinstance(parts, list) else []


def watts(value: object) -> str:
    """Power for a person; + import, - export."""
    if not isinstance(value, int | float):
        return "-"
    if -0.5 <= value <= 0.5:
        return "0 W"  # nothing has no direction
    return f"{value / 1000:+.1f} kW" if abs(value) >= 10_000 else f"{value:+.0f} W"


def band(lowest: object, highest: object) -> str:
    """What a setpoint allows."""
    if lowest is None and highest is None:
        return "free"
    if lowest == highest:
        return watts(lowest)
    if lowest is None:
        return f"up to {watts(highest)}"
    return f"{watts(lowest)} and up" if highest is None else f"{watts(lowest)} to {watts(highest)}"


def held_words(allowed: str) -> str:
    """A `band` in a sentence, after "held"."""
    return allowed if allowed.startswith("up to ") else f"from {allowed}" if " to " in allowed else f"at {allowed}"


def _time(microseconds: object) -> str:
    if not isinstance(microseconds, int):
        return "-"
    return datetime.fromtimestamp(microseconds / 1e6).astimezone().strftime("%H:%M:%S")
