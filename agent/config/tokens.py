"""Reads the file of idTokens that may charge at the site (`[ocpp] tokens_file`), as typed settings.

A file of its own, because people change it more often than the configuration, and because the agent reads it again when
it is told to, without a restart.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MOST_BYTES = 4_000_000


class TokensError(Exception):
    """The file cannot be used. Says which entry, and what would be right."""


class AllowedToken(BaseModel):
    """[[token]]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str | None = Field(None, min_length=1, max_length=36, description="idToken, as printed; case does not matter")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-fA-F]{64}$", description="SHA-256 of the idToken in upper case, in place of `id`"
    )
    type: Literal["", "Central", "eMAID", "ISO14443", "ISO15693", "KeyCode", "Local", "MacAddress"] = Field(
        "", description="OCPP type; empty: any"
    )
    group: str = Field("", max_length=36, description="Tokens of one group may end each other's transactions")
    expires: datetime | None = Field(None, description="Not accepted from then on; with a time zone")
    blocked: bool = Field(False, description="Known and not accepted")
    devices: list[str] = Field([], max_length=200, description="Device ids where it may charge; empty: all")

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.id is None) == (self.sha256 is None):
            raise ValueError("give exactly one of id and sha256")
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError("expires: add a time zone, as in 2027-01-01T00:00:00Z")
        return self

    @property
    def expires_us(self) -> int | None:
        return None if self.expires is None else int(self.expires.astimezone(UTC).timestamp() * 1_000_000)


class _TokensFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    token: list[AllowedToken] = Field([], max_length=10_000)


def read_tokens(path: Path) -> list[AllowedToken]:
    """The tokens of a file. Raises TokensError, which names no idToken."""
    try:
        if path.stat().st_mode & 0o007:
            raise TokensError(f"{path}: everybody may read these tokens; run chmod 640 on it")
        if path.stat().st_size > MOST_BYTES:
            raise TokensError(f"{path}: is larger than {MOST_BYTES} bytes")
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return _TokensFile.model_validate(raw).token
    except OSError as error:
        raise TokensError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TokensError(f"{path}: is not TOML: {error}") from error
    except ValidationError as error:
        raise TokensError(
            f"{path}: {'; '.join(_explain(fault['loc'], fault['msg']) for fault in error.errors()[:5])}"
        ) from (
            None  # the cause would quote what was given
        )


def _explain(where: tuple[int | str, ...], message: str) -> str:
    place = " ".join(f"number {part + 1}" if isinstance(part, int) else part for part in where)
    return f"{place}: {message.removeprefix('Value error, ')}"
