"""Writes a commented configuration file from the settings classes: every key with meaning, unit, range and default."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from enum import Enum
from types import UnionType
from typing import Final, Literal, TypeAlias, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agent import config

Given: TypeAlias = Mapping[str, Mapping[str, str | int | float | bool]]

_EXAMPLES: Final = """\
# ---- Devices: one [[device]] each. `v2g-gateway scan HOST` prints these ready for inverters, batteries and meters.

# The meter at the grid connection. Everything behind it names it as parent.
#[[device]]
#id = "grid"
#kind = "meter"
#driver = "sunspec"
#address = "tcp://192.0.2.10:502"
#unit = 1

#[[device]]
#id = "pv-1"
#kind = "pv"
#driver = "sunspec"
#address = "tcp://192.0.2.11:502"
#unit = 1
#parent = "grid"
#settled = true

# A charger connects to us: set its CSMS URL to ws://<this gateway>:9000/CS-1 and its password to the file's content.
#[[device]]
#id = "car-1"
#kind = "charger"
#driver = "ocpp"
#charger_id = "CS-1"
#password_secret = "file:/etc/v2g-gateway/cs-1.password"
#parent = "grid"
#settled = true
#fallback_import_w = 4140
#local_tokens = ["04A1B2C3D4E5F6"]
# When nobody commands: as late as time and energy allow. It may give back what its owner's mandate below permits.
#day = "departure"
#departure_time = "07:30"
#departure_energy_wh = 20000
#discharge = "v2x"
# Where its meter signs (OCMF): the key as the meter shows it, never one that the charger sends.
#meter_key_file = "/etc/v2g-gateway/cs-1.meter.pem"

# Whose signed prices and frequencies count; [feeds] needed of them must agree.
#[[feeds.source]]
#name = "exchange-1"
#key_file = "/etc/v2g-gateway/exchange-1.pem"
#[[feeds.source]]
#name = "exchange-2"
#key_file = "/etc/v2g-gateway/exchange-2.pem"

# A car is discharged only with its owner's mandate, for the token that it charges with.
#[[control.mandate]]
#token_id = "04A1B2C3D4E5F6"
#minimum_soc_percent = 30
#least_price_micro_per_kwh = 0

# Hard-wired inputs: a contact to ground that opens to act, so that a broken wire acts too.
#[[input]]
#name = "stop-button"
#line = 17
#stop = true

#[[input]]
#name = "ripple-60"
#line = 27
#export_limit_w = 6000
"""

_HEAD: Final = """\
# Configuration of the V2G gateway. Check it with: v2g-gateway config check
# A line that begins with # shows a default; take the # away to change it. One that ends in = has none: absent, unless
# it is required. Powers: + is import, - is export.
# Secrets never stand here: a key that ends in _secret names a file ("file:/path") or a systemd credential
# ("credential:NAME").
"""

_PLATFORM: Final = (
    "# Without this section the gateway works alone: it measures, signs, stores, and obeys local rules.\n"
)


_LISTED: Final = {
    "[[device]]": ("device",),
    "[[control.mandate]]": ("control", "mandate"),
    "[[feeds.source]]": ("feeds", "source"),
    "[[input]]": ("input",),
}
"""Tables of which there may be several: examples show them, and each of their keys is explained."""


def annotated_config(given: Given) -> str:
    """The file as text. `given` are the values to write, by section and key; all else stands there as a comment."""
    parts = [_HEAD]
    for name in config.Settings.model_fields:
        if name in ("device", "input"):  # lists; the examples show them
            continue
        section = config.model_at((name,))
        assert section is not None
        values = given.get(name, {})
        optional = name == "platform" and not values
        parts.append((_PLATFORM if name == "platform" else "") + _section(name, section, values, hide=optional))
    parts.append(_EXAMPLES)
    for title, where in _LISTED.items():
        model = config.model_at(where)
        assert model is not None
        parts.append(_reference(title, model))
    return "\n".join(parts)


def _section(name: str, model: type[BaseModel], values: Mapping[str, str | int | float | bool], *, hide: bool) -> str:
    lines = [f"{'#' if hide else ''}[{name}]"]
    for key, field in model.model_fields.items():
        if (name, key) in (("control", "mandate"), ("feeds", "source")):
            continue
        lines.extend(textwrap.wrap(_explain(field), width=116, initial_indent="# ", subsequent_indent="# "))
        if key in values:
            lines.append(f"{key} = {_toml(values[key])}")
        elif field.default is PydanticUndefined or field.default is None:
            lines.append(f"#{key} =")
        else:
            lines.append(f"#{key} = {_toml(field.default)}")
    return "\n".join(lines) + "\n"


def _reference(title: str, model: type[BaseModel]) -> str:
    lines = [f"# ---- Every key of {title}:"]
    for key, field in model.model_fields.items():
        default = "" if field.default in (PydanticUndefined, None) else f" Default: {_toml(field.default)}."
        text = f"{key}: {_explain(field)}{default}"
        lines.extend(textwrap.wrap(text, width=116, initial_indent="#   ", subsequent_indent="#       "))
    return "\n".join(lines) + "\n"


def _explain(field: FieldInfo) -> str:
    said = f"{field.description}."
    bounds = _range(field)
    if bounds:
        said += f" {bounds}."
    choices = _choices(field.annotation)
    if choices:
        said += f" One of: {', '.join(choices)}."
    if field.is_required():
        said += " Required."
    return said


def _range(field: FieldInfo) -> str:
    low = next((m.ge for m in field.metadata if isinstance(m, annotated_types.Ge)), None)
    high = next((m.le for m in field.metadata if isinstance(m, annotated_types.Le)), None)
    if low is None or high is None:
        return f"At least {low}" if low is not None else ""
    return f"{low} to {high}"


def _choices(annotation: object) -> list[str]:
    if get_origin(annotation) is Literal:
        return [_toml(value) for value in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [_toml(member.value) for member in annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [choice for part in get_args(annotation) for choice in _choices(part)]
    return []


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
