"""Writes proto/vectors/channels: `python -m hil_tests.generate_channel_vectors` from the root of the repository.

The same every time, like the other vectors; the verdicts are written by hand from proto/CHANNELS.md.
"""

from __future__ import annotations

from typing import Final

from hil_tests import channel_cases, window_cases
from hil_tests.vector_files import VECTORS, text_of, write

FOLDER: Final = VECTORS / "channels"


def main() -> None:
    """Write all files."""
    write(FOLDER, files())


def files() -> dict[str, str]:
    """File name -> content."""
    return {
        "site.json": text_of(channel_cases.site()),
        "states.json": text_of(list(channel_cases.states())),
        "proposals.json": text_of(list(channel_cases.proposals())),
        "questions.json": text_of(list(channel_cases.questions())),
        "windows.json": text_of(list(window_cases.cases())),
    }


if __name__ == "__main__":
    main()
