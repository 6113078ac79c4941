"""What a person sees while the demo runs: the act, the link, the agent's own status; then the summary."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from agent.cli.output import table
from agent.cli.status import picture

console = Console(stderr=True, emoji=False)


def look(
    *, status: Mapping[str, object] | None, act: str, elapsed_s: float, seconds: float | None, cut: bool, page_url: str
) -> RenderableType:
    """One frame."""
    of = f" of {seconds:.0f} s" if seconds is not None else " s (Ctrl-C ends)"
    head = Text.assemble(
        (f"{elapsed_s:5.0f}{of}   ", "bold"),
        act,
        "\nLink between gateway and platform: ",
        ("CUT" if cut else "whole", "bold red" if cut else "green"),
        f"   Status page: {page_url}",
    )
    body: RenderableType = Text("The gateway does not answer.", style="red") if status is None else picture(status)
    return Group(Panel(head, title="V2G gateway on a simulated site", border_style="blue"), body)


def line(status: Mapping[str, object] | None, act: str, elapsed_s: float) -> str:
    """The same in one line, where there is no terminal."""
    if status is None:
        return f"{elapsed_s:6.0f} s  {act}"
    devices = status.get("devices")
    powers = ", ".join(
        f"{device['device_id']} {device['power_w'] if device['power_w'] is not None else '-'} W"
        for device in (devices if isinstance(devices, list) else [])
    )
    evidence = status.get("evidence")
    counts = (
        f"{evidence['sealed']} sealed, {evidence['acknowledged']} acknowledged" if isinstance(evidence, dict) else ""
    )
    return f"{elapsed_s:6.0f} s  {act}: {powers}; {counts}"


def summary(figures: Mapping[str, object]) -> RenderableType:
    """The end of the run for a person."""
    rows = [
        ("Readings sealed", "readings_sealed", "by the agent, exported and verified after it had stopped"),
        ("Readings safe at the platform", "readings_acknowledged", ""),
        ("Readings lost", "readings_lost", "missing, doubled, or not what the meters counted"),
        ("Receipts verified / rejected", "receipts_verified", f"{figures['receipts_rejected']} rejected"),
        ("Commands received", "commands_received", f"of {figures['commands_sent']} sent"),
        ("Commands obeyed", "commands_obeyed", "by metered power, with one final receipt each"),
        ("Command seconds without a link", "command_seconds_offline", "obeyed while the link was cut"),
        ("Tracking error", "tracking_error_percent", "percent of the target, mean after the ramp"),
        ("Windows signed by both sides", "windows_countersigned", f"of {figures['window_seconds']} s"),
        ("Channel conflicts", "channel_conflicts", ""),
        ("Set-up from fresh", "fresh_setup_seconds", "seconds"),
    ]
    if figures["commands_unfinished"]:
        rows.insert(
            6, ("Commands broken off", "commands_unfinished", "still in force, and obeyed so far if all is well")
        )
    cells = [[name, "–" if figures[key] is None else str(figures[key]), note] for name, key, note in rows]
    parts: list[RenderableType] = [table("The run, judged from the outside", ["", "", ""], cells, right=[])]
    if figures["times_shrunk"]:
        parts.append(
            Text(
                f"Times were shrunk: commands were judged after {figures['ramp_seconds']:.1f} s of ramp (the platform "
                f"allows 120 s), and settlement windows lasted {figures['window_seconds']} s (in service 900 s).",
                style="dim",
            )
        )
    good = bool(figures["ok"])
    verdict = "Nothing was lost, rejected or disobeyed." if good else "This run was NOT good: see the figures above."
    parts.append(Text(verdict, style="bold green" if good else "bold red"))
    return Group(*parts)
