"""Reads the configuration file: settings, or each fault with file, line, key and what would be right."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.config import settings, whole
from agent.config.whole import Settings
from drivers.toml_lines import line_of

DEFAULT_PATH = Path("/etc/v2g-gateway/gateway.toml")
_BY_NAME = {**vars(settings), **vars(whole)}
"""The sections' classes."""


class ConfigError(Exception):
    """The configuration cannot be used. Each line of the message says file, line, key and what would be right."""


def read_settings(path: Path) -> Settings:
    """The settings of a file. Raises ConfigError, one line of the message per fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; `v2g-gateway init` makes one") from None
    except PermissionError:
        raise ConfigError(f"{path}: only root and the gateway's user may read it; try with sudo") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text; save it as UTF-8") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        line = int(at[1]) if at else len(text.splitlines())
        column = f", column {at[2]}" if at else ""
        raise ConfigError(f"{path}:{line}: is not TOML: {str(error).partition(' (at ')[0]}{column}") from error
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        faults = sorted(_explain(text, fault) for fault in error.errors())
        raise ConfigError("\n".join(f"{path}:{line}: {message}" for line, message in faults)) from error


def _explain(text: str, fault: ErrorDetails) -> tuple[int, str]:
    """Line and sentence of one fault."""
    where = (*fault["loc"], *fault.get("ctx", {}).get("where", ()))
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in where) or "file"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(where[:-1]))
        message = f"unknown key; known here: {known}"
    elif fault["type"] == "missing":
        message = "is missing" + _describe(where)
    else:
        message += _describe(where)
        if not any(isinstance(fault["input"], kind) for kind in (dict, list)) and "secret" not in key:
            message += f"; found {str(fault['input'])[:60]!r}"
    return line_of(text, where), f"{key}: {message}"


def model_at(where: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The settings class that a location is in, by walking the annotations."""
    model: type[BaseModel] | None = Settings
    for part in where:
        if isinstance(part, int):
            continue
        if model is None or part not in model.model_fields:
            return None
        found = re.findall(r"(\w+Settings)", str(model.model_fields[part].annotation))
        model = _BY_NAME.get(found[0]) if found else None
    return model


def _known_keys(where: tuple[int | str, ...]) -> list[str]:
    model = model_at(where)
    return sorted(model.model_fields) if model is not None else []


def _describe(where: tuple[int | str, ...]) -> str:
    model = model_at(where[:-1])
    field = model.model_fields.get(str(where[-1])) if model is not None and where else None
    return f" ({field.description})" if field is not None and field.description else ""
