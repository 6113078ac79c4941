"""Scratch tokens for tests and the demo: made in a folder, taken away and put back like one on a USB port."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from agent.token.softhsm import UTILITY, init_softhsm_token, write_softhsm_conf

_MODULES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
)


class ScratchToken(Protocol):
    """What tests need of a token, whatever is behind it."""

    @property
    def module(self) -> Path: ...
    @property
    def label(self) -> str: ...
    @property
    def pin(self) -> str: ...
    @property
    def environment(self) -> dict[str, str]:
        """Must be set in a process before it opens the module."""
        ...

    def take_away(self) -> None:
        """As if it had been unplugged."""
        ...

    def put_back(self) -> None: ...


def softhsm_module() -> Path | None:
    """The SoftHSM module, where the distribution puts it; None when it or its utility is not installed."""
    if shutil.which(UTILITY) is None:
        return None
    return next((path for path in _MODULES if path.exists()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftHsm:
    """A SoftHSM token in a folder of its own."""

    module: Path
    folder: Path
    label: str
    serial: str
    so_pin: str = field(repr=False)
    pin: str = field(repr=False)

    @property
    def conf(self) -> Path:
        return self.folder / "softhsm2.conf"

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.conf)}

    def take_away(self) -> None:
        (self.folder / "tokens").rename(self.folder / "unplugged")
        (self.folder / "tokens").mkdir(mode=0o700)

    def put_back(self) -> None:
        (self.folder / "tokens").rmdir()
        (self.folder / "unplugged").rename(self.folder / "tokens")


def make_softhsm(folder: Path, *, label: str = "v2g-rig") -> SoftHsm:
    """A new token with random PINs. A second call for the same folder adds a second token to it.

    Raises agent.token.softhsm.SoftHsmError, also when SoftHSM is not installed.
    """
    module = softhsm_module() or _MODULES[0]
    conf = write_softhsm_conf(folder)
    so_pin, pin = (str(secrets.randbelow(9 * 10**7) + 10**7) for _ in range(2))
    serial = init_softhsm_token(module=module, label=label, so_pin=so_pin, user_pin=pin, conf=conf)
    return SoftHsm(module=module, folder=folder, label=label, serial=serial, so_pin=so_pin, pin=pin)
