"""Digests of what runs here and of the settings that bear on what it measures.

Both are digests over a manifest that a person can read and another tool can rebuild: sorted lines
"<sha256 of the file> <name>", and sorted compact JSON. So an auditor with the released wheel gets the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

Setting: TypeAlias = "str | int | float | bool | None | list[Setting] | Mapping[str, Setting]"

PACKAGES: Final = ("agent", "drivers", "firmware_attest", "proto")
"""What the running gateway is made of. The rig and the tests are not."""


class MeasurementError(Exception):
    """Something that ought to be measured cannot be read. Says which file, and why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The files of the installed agent and their digests."""

    files: tuple[tuple[str, bytes], ...]
    """(name below the installation, SHA-256), sorted by name."""

    @property
    def manifest(self) -> str:
        """One line per file, as `sha256sum` prints it."""
        return "".join(f"{digest.hex()}  {name}\n" for name, digest in self.files)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the manifest, 32 bytes."""
        return hashlib.sha256(self.manifest.encode()).digest()


def measure_software(root: Path, packages: Iterable[str] = PACKAGES) -> Measurement:
    """Measure the packages below `root`. Compiled caches are left out: Python makes them from the files measured.

    Raises MeasurementError when a package is missing or a file cannot be read.
    """
    files: list[tuple[str, bytes]] = []
    for package in packages:
        folder = root / package
        if not folder.is_dir():
            raise MeasurementError(f"{folder}: there is no such package; the installation is not whole")
        for path in folder.rglob("*"):
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            try:
                with path.open("rb") as file:
                    files.append((path.relative_to(root).as_posix(), hashlib.file_digest(file, "sha256").digest()))
            except OSError as error:
                raise MeasurementError(f"{path}: cannot be measured: {error.strerror}") from error
    return Measurement(tuple(sorted(files)))


def measure_settings(settings: Mapping[str, Setting]) -> bytes:
    """SHA-256 of the settings as sorted compact JSON, 32 bytes: the same settings in another order give the same."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).digest()


def installed_root() -> Path:
    """The folder that the running agent was imported from."""
    return Path(__file__).resolve().parent.parent
