"""`run`, `init` and `config`: a gateway on its way into service."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import init as initialising
from agent.cli.asking import settings_of as _settings
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.cli.preflight import missing_parts
from agent.config import DEFAULT_PATH, SecretError, TokenSettings
from agent.token.softhsm import SoftHsmError

config_app = typer.Typer(help="Check the configuration file.", no_args_is_help=True)


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
