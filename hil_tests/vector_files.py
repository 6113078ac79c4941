"""The files below proto/vectors: what they look like, and how a generator writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hil_tests.evidence_cases import Json

VECTORS: Final = Path(__file__).parents[1] / "proto" / "vectors"


def text_of(content: Json) -> str:
    """A file's content. (Those of commands and schedules are not in ASCII: `command_parties`.)"""
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, by their names below a folder, and say so."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(f"{path}: {len(content)} characters")
