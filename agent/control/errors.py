"""Errors of control: what is wrong with a command as presented, and what we cannot carry out."""

from __future__ import annotations

from typing import Final

QUOTED_MOST: Final = 80
"""Characters of a peer's words that are repeated in a message."""


class ControlError(Exception):
    """Root of control's errors. The message says what is wrong, where, and what to do about it."""


class NotNowError(ControlError):
    """Rightly asked, and not possible as things are: another time it may be."""


class CommandFormatError(ControlError):
    """A command body or authorization that is not in the format of proto/COMMANDS.md. Nothing of it was obeyed."""


class RestoreError(ControlError):
    """A stored note about commands cannot be read. It is set aside and named; the others go on."""


def quoted(words: object) -> str:
    """What a peer sent, fit for a log or a receipt: escaped, quoted, cut."""
    text = ascii(words)
    return text if len(text) <= QUOTED_MOST else text[: QUOTED_MOST - 4] + "...'"
