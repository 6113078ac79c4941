"""Writes proto/vectors/channels: `python -m hil_tests.generate_channel_vectors` from the root of the repository.

The same every time, like the other vectors; the verdicts are written by hand from proto/CHANNELS.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from hil_tests import channel_cases, window_cases
from hil_tests.evidence_cases import Json

FOLDER: Final = Path(__file__).parents[1] / "proto" / "vectors" / "channels"


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
        print(f"{FOLDER / name}: {len(content)} characters")


def files() -> dict[str, str]:
    """File name -> content."""
    return {
        "site.json": _text(channel_cases.site()),
        "states.json": _text(list(channel_cases.states())),
        "proposals.json": _text(list(channel_cases.proposals())),
        "questions.json": _text(list(channel_cases.questions())),
        "windows.json": _text(list(window_cases.cases())),
    }


def _text(content: Json) -> str:
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    main()
