"""`v2g-gateway config check`, second half: what the configuration names that is not there, or cannot be used.

None of it keeps the agent from starting (each part comes up when it can), so none of it is an error of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from agent.config import SecretError, Settings, read_secret
from agent.config.tokens import TokensError, read_tokens
from agent.roads.meter_keys import registered_key
from agent.token.store_key import read_store_key
from drivers.ocmf.errors import MeterKeyError


def missing_parts(settings: Settings) -> list[str]:
    """A sentence for each: the key, what is wrong with what it names, and what that keeps from working."""
    return [*_secrets(settings), *_files(settings), *_tokens(settings), *_meter_keys(settings)]


def _tokens(settings: Settings) -> Iterator[str]:
    if settings.ocpp.tokens_file is not None:
        try:
            read_tokens(settings.ocpp.tokens_file)
        except TokensError as error:
            yield f"ocpp.tokens_file: {error}; until then only local_tokens of the devices may charge"


def _meter_keys(settings: Settings) -> Iterator[str]:
    for device in settings.device:
        try:
            registered_key(device)
        except MeterKeyError as error:
            yield f"device {device.id}: meter_key_file: {error}; until then nothing that its meter signs is verified"


def _secrets(settings: Settings) -> Iterator[str]:
    named = [
        ("token.pin_secret", settings.token.pin_secret, "nothing is signed"),
        ("evidence.store_key_secret", settings.evidence.store_key_secret, "nothing is stored and no command is taken"),
        ("web.password_secret", settings.web.password_secret, "the status page stays closed"),
    ]
    named += [
        (f"device {device.id}: password_secret", device.password_secret, "this charger does not get in")
        for device in settings.device
    ]
    for key, reference, effect in named:
        # A credential is there for the service alone.
        if reference is None or not reference.startswith("file:"):
            continue
        try:
            if key == "evidence.store_key_secret":
                read_store_key(reference)
            else:
                read_secret(reference)
        except SecretError as error:
            yield f"{key}: {error}; until then {effect}"


def _files(settings: Settings) -> Iterator[str]:
    named: list[tuple[str, Path | None, str]] = [("token.module", settings.token.module, "nothing is signed")]
    if settings.platform is not None:
        named += [
            (f"platform.{key}", getattr(settings.platform, key), "there is no link")
            for key in ("ca_file", "certificate_file", "platform_key_file", "trust_root_file", "trust_list_file")
        ]
        named += [
            (f"platform.{key}", getattr(settings.platform, key), "there is no link over MQTT")
            for key in ("mqtt_certificate_file", "mqtt_certificate_key_file")
        ]
    named += [
        (f"{name}.{key}", getattr(section, key), effect)
        for name, section, effect in (
            ("ocpp", settings.ocpp, "no charger gets in"),
            ("web", settings.web, "the status page stays closed"),
        )
        for key in ("certificate_file", "certificate_key_file")
    ]
    for key, path, effect in named:
        if path is None:
            continue
        if not path.is_file():
            yield f"{key}: {path}: there is no such file; until then {effect}"
        elif not os.access(path, os.R_OK):
            yield f"{key}: {path}: you may not read it; if the gateway's user may not either, {effect}"
