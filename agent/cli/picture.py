"""A simulation as a picture: power and limits, state of charge, commands, over one axis of time. SVG, written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Final
from xml.sax.saxutils import escape

from agent.control.simulation import Outcome

WIDTH: Final = 1200
LEFT: Final = 70
RIGHT: Final = 150
POWER_HEIGHT: Final = 340
CHARGE_HEIGHT: Final = 140
BAR_HEIGHT: Final = 22
GAP: Final = 44
COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#6b6ecf")
"""Okabe and Ito's, which those who cannot tell red from green can tell apart."""
CONNECTION: Final = "#222222"
LIMIT: Final = "#c0392b"
TICKS: Final = (60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
MOST_BARS: Final = 60


def draw(outcome: Outcome, *, title: str, zone: tzinfo) -> str:
    """The whole picture."""
    names = sorted({name for point in outcome.points for name in point.powers_w})
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    charged = sorted({name for point in outcome.points for name in point.soc_permille})
    bars = outcome.commands[:MOST_BARS]
    charge_top = GAP + 20 + POWER_HEIGHT + GAP
    bars_top = charge_top + ((CHARGE_HEIGHT + GAP) if charged else 0)
    height = bars_top + max(1, len(bars)) * BAR_HEIGHT + 60
    span_us = max(1, outcome.until_us - outcome.from_us)

    def across(at_us: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at_us - outcome.from_us) / span_us

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
        *_power(outcome, names, colours, across),
        *(_charge(outcome, charged, colours, across, charge_top) if charged else []),
        *_bars(outcome, across, bars_top),
        *_time_axis(outcome, across, GAP + 20, bars_top + max(1, len(bars)) * BAR_HEIGHT, zone),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _power(
    outcome: Outcome, names: Sequence[str], colours: dict[str, str], across: Callable[[int], float]
) -> list[str]:
    top = GAP + 20
    shown = [point.connection_w for point in outcome.points] or [0]
    shown += [power_w for point in outcome.points for power_w in point.powers_w.values()]
    low, high = min(0, *shown), max(0, *shown)
    limits = [("import limit", outcome.import_limit_w), ("export limit", -outcome.export_limit_w)]
    near = [(text, watts) for text, watts in limits if low * 1.6 - 500 <= watts <= high * 1.6 + 500]
    low, high = min(low, *(w for _, w in near), 0), max(high, *(w for _, w in near), 0)
    step = _nice((high - low) / 6 or 1_000)
    low, high = low // step * step, -(-high // step) * step or step

    def down(watts: float) -> float:
        return top + POWER_HEIGHT * (high - watts) / max(1, high - low)

    parts = [f'<text x="{LEFT}" y="{top - 8}">kW, + import, − export</text>']
    watts = low
    while watts <= high:
        y = down(watts)
        stroke = "#888" if watts == 0 else "#ddd"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{stroke}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{watts / 1000:g}</text>')
        watts += step
    for text, limit_w in near:
        y = down(limit_w)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{LIMIT}" '
            'stroke-dasharray="6 4"/>'
        )
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:.1f}" fill="{LIMIT}">{text}</text>')
    for name in names:
        line = [(across(p.at_us), down(p.powers_w.get(name, 0))) for p in outcome.points]
        parts.append(_line(line, colours[name], 1.5))
    parts.append(_line([(across(p.at_us), down(p.connection_w)) for p in outcome.points], CONNECTION, 2.2))
    legend = [("connection", CONNECTION), *((name, colours[name]) for name in names)]
    for index, (name, colour) in enumerate(legend):
        y = top + 30 + 18 * index
        parts.append(
            f'<rect x="{WIDTH - RIGHT + 8}" y="{y}" width="14" height="4" fill="{colour}"/>'
            f'<text x="{WIDTH - RIGHT + 28}" y="{y + 6}">{escape(name[:18])}</text>'
        )
    return parts


def _charge(
    outcome: Outcome, names: Sequence[str], colours: dict[str, str], across: Callable[[int], float], top: float
) -> list[str]:
    parts = [f'<text x="{LEFT}" y="{top - 8}">state of charge, %</text>']
    for percent in (0, 25, 50, 75, 100):
        y = top + CHARGE_HEIGHT * (100 - percent) / 100
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    for name in names:
        # A car that is away has no charge: the line breaks.
        line: list[tuple[float, float]] = []
        for point in outcome.points:
            soc = point.soc_permille.get(name)
            if soc is None:
                parts.append(_line(line, colours[name], 1.5))
                line = []
            else:
                line.append((across(point.at_us), top + CHARGE_HEIGHT * (1000 - soc) / 1000))
        parts.append(_line(line, colours[name], 1.5))
    return parts


def _bars(outcome: Outcome, across: Callable[[int], float], top: float) -> list[str]:
    """A bar for each command: pale while it stands, dark while it was in force."""
    parts = [f'<text x="{LEFT}" y="{top - 8}">commands</text>']
    if not outcome.commands:
        parts.append(f'<text x="{LEFT + 4}" y="{top + 15}" fill="#888">none</text>')
    for index, life in enumerate(outcome.commands[:MOST_BARS]):
        y = top + BAR_HEIGHT * index
        begin, end = across(max(life.start_us, outcome.from_us)), across(min(life.end_us, outcome.until_us))
        parts.append(_bar(begin, end, y, "#d5dde5"))
        parts += [_bar(across(a), across(min(b, outcome.until_us)), y, "#7fa8cc") for a, b in life.forced]
        text = f"{life.text.rsplit(' until ', 1)[0]}: {', '.join(state.lower() for state in life.states[1:])}"
        x, anchor = (begin + 4, "start") if begin < WIDTH * 0.6 else (end - 4, "end")
        parts.append(
            f'<text x="{x:.1f}" y="{y + 15}" text-anchor="{anchor}"><title>{escape(life.reason)}</title>'
            f"{escape(text[:110])}</text>"
        )
    return parts


def _bar(begin: float, end: float, y: float, colour: str) -> str:
    return f'<rect x="{begin:.1f}" y="{y + 2}" width="{max(1.0, end - begin):.1f}" height="18" rx="3" fill="{colour}"/>'


def _time_axis(outcome: Outcome, across: Callable[[int], float], top: float, bottom: float, zone: tzinfo) -> list[str]:
    span_s = (outcome.until_us - outcome.from_us) / 1e6
    every_s = next((each for each in TICKS if span_s / each <= 14), TICKS[-1] * max(1, round(span_s / 86_400 / 10)))
    begin = datetime.fromtimestamp(outcome.from_us / 1e6, zone)
    midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    parts = []
    tick = midnight
    while (at_us := round(tick.timestamp() * 1e6)) <= outcome.until_us:
        if at_us >= outcome.from_us:
            x = across(at_us)
            text = tick.strftime("%a %d %b") if tick.hour == tick.minute == 0 else tick.strftime("%H:%M")
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom + 6}" stroke="#eee"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 22}" text-anchor="middle">{text}</text>')
        tick += timedelta(seconds=every_s)
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom + 42}" text-anchor="end">{escape(str(zone))}</text>')
    return parts


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    """A stair: power holds from one point to the next."""
    if not points:
        return ""
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for x, y in points[1:]:
        path.append(f"H{x:.1f}V{y:.1f}")
    return f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _nice(step: float) -> int:
    """1, 2 or 5 times a power of ten, W."""
    size = 100
    while True:
        for factor in (1, 2, 5):
            if factor * size >= step:
                return factor * size
        size *= 10
