"""`v2g-gateway why`: what each device does at present, and why, in plain sentences."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from agent.cli.asking import settings_of
from agent.cli.client import AgentUnreachableError, ask
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, field, plain
from agent.cli.status import agreed_sentences, band, held_words, watts
from agent.config import DEFAULT_PATH

_BINDS: Final = {
    "In force: export limit": "export limit by command",
    "In force: import limit": "import limit by command",
    "A hard-wired input": "hard-wired input",
}
"""Sentences of the site, and the rule in a device's reason that they tell more of."""
ENDED: Final = ("completed", "superseded", "expired", "failed", "rejected")


def why(
    device: Annotated[str | None, typer.Argument(metavar="DEVICE", help="One device only, by its id.")] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Why each device does what it does.

    What is wanted, by whom, until when, and which rules bind.
    """
    try:
        status = ask(settings_of(config, as_json).gateway.state_dir, "/api/status")
    except AgentUnreachableError as error:
        fail(str(error), as_json=as_json)
    listed = field(status, "devices")
    devices = [d for d in (listed if isinstance(listed, list) else []) if device in (None, field(d, "device_id"))]
    if device is not None and not devices:
        fail(f"no device {device!r} here; `v2g-gateway status` names them", as_json=as_json, code=2)
    if as_json:
        emit_json(
            {"site": site_sentences(status), "devices": {str(field(d, "device_id")): sentence(d) for d in devices}}
        )
        return
    for line in site_sentences(status) if device is None else binding_sentences(status, devices):
        console.print(plain(line), markup=False, highlight=False)
    for each in devices:
        console.print(plain(f"{field(each, 'device_id')}: {sentence(each)}"), markup=False, highlight=False)


def site_sentences(status: object) -> list[str]:
    """What holds for the whole site."""
    found = []
    if field(status, "stopped_by"):
        by = field(status, "stopped_by")
        found.append(f"Local STOP, pressed by {by}: all controllable power is off until it is cleared here.")
    if field(status, "safe_mode"):
        found.append(f"Safe mode: {field(status, 'safe_mode')}; the site looks after itself.")
    inputs = field(status, "inputs")
    for wired in inputs if isinstance(inputs, list) else []:
        found.append(f"A hard-wired input is active, above every command from the network: {wired}.")
    commands = field(status, "commands")
    any_in_force = False
    for command in commands if isinstance(commands, list) else []:
        if field(command, "in_force"):
            any_in_force = True
            found.append(f"In force: {field(command, 'text')}.")
        elif field(command, "reason") and field(command, "state") not in ENDED:
            found.append(f"Not in force: {field(command, 'text')}: {field(command, 'reason')}.")
    if not any_in_force:
        found.append("No command is in force.")
    return found + [f"{line}." for line in agreed_sentences(status)]


def binding_sentences(status: object, devices: list[object]) -> list[str]:
    """What of the site's binds one of these devices, by whom and until when: its own sentence names the rule alone."""
    reasons = " ".join(str(field(device, "reason")) for device in devices)
    begins = [begin for begin, says in _BINDS.items() if says in reasons]
    return [line for line in site_sentences(status) if line.startswith(tuple(begins))]


def sentence(device: object) -> str:
    """One device in one line."""
    power, link = field(device, "power_w"), field(device, "link")
    now = "its power is not known" if power is None else f"it is at {watts(power)}"
    if link != "online":
        return f"{link}, {now}: {field(device, 'detail')}."
    if field(device, "kind") == "meter":
        return f"{now}; a meter only measures."
    allowed = band(field(device, "lowest_w"), field(device, "highest_w"))
    held = "nothing of ours holds it" if allowed == "free" else f"it is held {held_words(allowed)}"
    return f"{now}, {held}. {field(device, 'reason') or 'It is left to itself'}."
