"""The commands of `v2g-gateway`, as a stranger reads them. Each has --json; exit code 0 good, 1 not, 2 wrong use."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from agent.cli import backup as backup_commands
from agent.cli import challenge as challenges
from agent.cli import command_history, device_commands, exporting, new_life, proving, scan_command, verifying
from agent.cli import counter as counting
from agent.cli import enroll as enrolling
from agent.cli import envelope as offering
from agent.cli import identity as identity_commands
from agent.cli import init as initialising
from agent.cli import override as holding
from agent.cli import plan as planning
from agent.cli import quote as quoting
from agent.cli import replay as replaying
from agent.cli import seal_pin as sealing_pin
from agent.cli import simulate as simulating
from agent.cli import store_key as keying_store
from agent.cli import why as explaining
from agent.cli.asking import settings_of as _settings
from agent.cli.asking import who as _who
from agent.cli.client import AgentUnreachableError, ask
from agent.cli.grouped import GroupedCommands
from agent.cli.logs import configure
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, field, os_error, plain
from agent.cli.preflight import missing_parts
from agent.cli.status import EXIT_CODES, picture
from agent.config import DEFAULT_PATH, SecretError, TokenSettings
from agent.token.softhsm import SoftHsmError

app = typer.Typer(
    cls=GroupedCommands,
    help="Edge gateway for V2G chargers, inverters, batteries and meters: signed readings out, grid commands in.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
)
config_app = typer.Typer(help="Check the configuration file.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(identity_commands.app, name="identity")
app.add_typer(challenges.app, name="challenge")

app.command()(scan_command.scan)
app.command()(device_commands.read)
app.command()(device_commands.record)
app.command()(device_commands.serve)
app.command()(explaining.why)
app.command()(exporting.export)
app.command()(proving.prove)
app.command()(verifying.verify)
app.command()(enrolling.enroll)
app.command()(backup_commands.backup)
app.command()(backup_commands.restore)
app.command()(new_life.new_life)
app.command("seal-pin")(sealing_pin.seal_pin)
app.command("store-key")(keying_store.seal_store_key)
app.command("decrypt")(keying_store.decrypt_store)
app.command("counter")(counting.define)
app.command()(quoting.quote)
app.command()(offering.envelope)
app.command()(planning.plan)
app.command()(simulating.simulate)
app.command()(command_history.commands)
app.command()(holding.override)
app.command()(replaying.replay)


@app.callback()
def _quiet() -> None:
    """Logs of the parts go to standard error, and only when something is amiss."""
    configure("warning")


@app.command()
def run(
    config: ConfigOption = DEFAULT_PATH,
    as_json: Annotated[bool, typer.Option("--json", help="Log JSON lines, also on a terminal.")] = False,
) -> None:
    """Run the gateway until it is told to stop (SIGTERM, Ctrl-C). systemd does this; so can you."""
    from agent.cli.run import main

    raise typer.Exit(main(["--config", str(config), *(["--json"] if as_json else [])]))


@config_app.command("check")
def config_check(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Say what is wrong with the configuration: file, line, key, and what would be right.

    Exit code 1 when the gateway would refuse it. Secrets and files that it names and that cannot be used are told too:
    the gateway starts without them, and what needs them waits.
    """
    settings = _settings(config, as_json)
    names = [device.id for device in settings.device]
    missing = missing_parts(settings)
    if as_json:
        platform = settings.platform is not None
        emit_json({"ok": True, "file": str(config), "devices": names, "platform": platform, "missing": missing})
        return
    counted = f"{len(names)} device{'' if len(names) == 1 else 's'}"
    text = f"{config}: good. {counted}{': ' if names else ''}{', '.join(names)}."
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if settings.platform is None:
        text = "There is no [platform]: the gateway measures, signs and stores, and takes no remote commands."
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for sentence in missing:
        console.print(f"! {plain(sentence)}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def init(
    state_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the gateway keeps its state.")] = Path(
        "/var/lib/v2g-gateway"
    ),
    config_out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to write the configuration, unless it is there.")
    ] = DEFAULT_PATH,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name that people see.")] = "v2g-gateway",
    module: Annotated[Path, typer.Option(metavar="FILE", help="PKCS#11 module.")] = Path(
        "/usr/lib/softhsm/libsofthsm2.so"
    ),
    label: Annotated[str, typer.Option(metavar="LABEL", help="Token label.")] = "v2g-gateway",
    pin_secret: Annotated[
        str | None,
        typer.Option(metavar="REFERENCE", help='Where the PIN is or goes: "file:/path" or "credential:NAME".'),
    ] = None,
    pin_stdin: Annotated[bool, typer.Option("--pin-stdin", help="Read the PIN from standard input.")] = False,
    settled: Annotated[
        list[str] | None, typer.Option(metavar="DEVICE", help="A settled device that needs a key; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make what is missing: token, keys, request, configuration.

    The keys cannot leave the token; the certificate request is for the platform. Safe to run again: nothing that is
    there is replaced. Keys of the settled devices of an existing configuration are made too.
    """
    reference = pin_secret or f"file:{state_dir.resolve() / 'token-pin'}"
    devices, site_ca = list(settled or []), False
    if config_out.exists():
        settings = _settings(config_out, as_json)
        name, tokens, site_ca = settings.gateway.name, settings.token, settings.ocpp.site_ca
        reference = pin_secret or tokens.pin_secret
        devices += [device.id for device in settings.device if device.settled]
    else:
        tokens = TokenSettings(module=module, label=label, pin_secret=reference)
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        pin = sys.stdin.readline().strip() if pin_stdin else initialising.read_pin(reference)
        made = []
        conf = initialising.choose_softhsm(tokens, state_dir)
        if tokens.label is not None and conf is not None and initialising.make_softhsm_token(tokens, pin, conf):
            made.append(f"token {tokens.label}")
        done = asyncio.run(
            initialising.make_keys(
                tokens, pin, name=name, state_dir=state_dir, settled=dict.fromkeys(devices), site_ca=site_ca
            )
        )
        given = {
            "gateway": {"name": name, "state_dir": str(state_dir.resolve())},
            "token": {"module": str(tokens.module), "label": label, "pin_secret": reference},
        }
        if initialising.write_config(config_out, given):
            made.append(f"configuration {config_out}")
    except (initialising.InitError, SecretError, SoftHsmError) as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, state_dir), as_json=as_json)
    made += done.made
    if as_json:
        emit_json(
            {
                "ok": True,
                "gateway_id": done.gateway_id,
                "made": made,
                "enrolment_dir": str(done.enrolment_dir),
            }
        )
        return
    console.print(f"Gateway {done.gateway_id}", highlight=False, soft_wrap=True)
    said = ", ".join(made) if made else "nothing; everything was there"
    console.print(f"Made: {said}.", highlight=False, soft_wrap=True)
    console.print(f"For enrolment, give the platform what is in {done.enrolment_dir}.", highlight=False, soft_wrap=True)
    if made:
        there = "" if config_out == DEFAULT_PATH else f" --config {config_out}"
        text = f"Next: describe the site in {config_out}, then v2g-gateway config check{there}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def status(
    config: ConfigOption = DEFAULT_PATH,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """How the running gateway fares. Exit code 0: well, or in need of a look; 1: does not answer; 2: in trouble."""
    state_dir = _settings(config, as_json).gateway.state_dir
    try:
        answer = ask(state_dir, "/api/status")
        if as_json:
            emit_json(answer)
        elif watch:
            with Live(picture(answer), console=console, screen=False) as live:
                while True:
                    time.sleep(1.0)
                    answer = ask(state_dir, "/api/status")
                    live.update(picture(answer))
        else:
            console.print(picture(answer))
    except AgentUnreachableError as error:
        fail(str(error), as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    raise typer.Exit(EXIT_CODES.get(str(field(answer, "verdict")), 2))


@app.command()
def stop(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Local STOP: all controllable power to its safe value, at once.

    Until `clear-stop`, over restarts too. Needs no working agent.
    """
    settings = _settings(config, as_json)
    file = settings.control.gateway_stop_file or settings.gateway.state_dir / "STOP"
    by = _who()
    noted = reached = False
    problem = ""
    try:
        _note_stop(file, by)
        noted = True
    except OSError as error:
        problem = f"{file}: {error.strerror}"
    try:
        ask(settings.gateway.state_dir, "/api/stop", press_by=by)
        reached = True
    except AgentUnreachableError as error:
        problem = problem or str(error)
    if as_json:
        emit_json({"ok": noted or reached, "noted": noted, "agent_reached": reached, "problem": problem})
    elif reached:
        text = "STOP: the gateway takes all controllable power to its safe value. To end it: v2g-gateway clear-stop"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    elif noted:
        text = f"STOP is noted in {file}; no agent answered. It holds from the agent's next breath or start."
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if not noted and not reached:
        fail(f"STOP could not be given: {problem}")


def _note_stop(file: Path, by: str) -> None:
    """Write the STOP file as the owner of its folder would: one of root's the agent could not write again.

    Raises OSError. Never follows a link: root may run this, and the folder is not root's.
    """
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with open(opened, "w", encoding="utf-8") as out:
        if os.geteuid() == 0:
            owner = file.parent.stat()
            os.fchown(out.fileno(), owner.st_uid, owner.st_gid)
        out.write(by + "\n")


@app.command("clear-stop")
def clear_stop(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Take the local STOP back: the gateway controls devices again."""
    settings = _settings(config, as_json)
    file = settings.control.gateway_stop_file or settings.gateway.state_dir / "STOP"
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        fail(f"{file}: {error.strerror}", as_json=as_json)
    try:
        ask(settings.gateway.state_dir, "/api/clear-stop", press_by=_who())
        reached = True
    except AgentUnreachableError:
        reached = False
    if as_json:
        emit_json({"ok": True, "agent_reached": reached})
    else:
        console.print("STOP is cleared." if reached else "STOP is cleared; no agent runs now.")
