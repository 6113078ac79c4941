"""How commands speak: tables and sentences for people, one JSON value on standard output for machines."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


def emit_json(value: object) -> None:
    """One JSON value and a newline."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def fail(message: str, *, code: int = 1, as_json: bool = False) -> NoReturn:
    """End with an error: what, where, what to do."""
    if as_json:
        emit_json({"ok": False, "error": message})
    else:
        # Line by line: a configuration has one line for each of its faults.
        shown = "\n".join(plain(line) for line in message.split("\n"))
        errors.print(f"[bold red]error:[/] {escape(shown)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def os_error(error: OSError, path: Path) -> str:
    """What the system refused, and where: the file that the error names, else `path`."""
    sudo = "; try with sudo" if error.errno == errno.EACCES and os.geteuid() != 0 else ""
    return f"{error.filename or path}: {error.strerror or error}{sudo}"


def progress_bar() -> Progress:
    """What goes on, on standard error; nothing at all where that is no terminal."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"),
        console=errors, transient=True, disable=not errors.is_terminal,
    )  # fmt: skip


def plain(text: str) -> str:
    """Text that a device or a peer may have written: nothing in it moves the terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """A table whose cells are plain text: nothing that a device said is read as markup."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(plain(cell)) for cell in row))
    return made


def field(value: object, *path: str) -> object:
    """A value inside nested JSON objects; None where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
