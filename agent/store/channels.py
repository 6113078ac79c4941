"""Rows of channel states: written once, in order, and never another in the place of one."""

from __future__ import annotations

import sqlite3
from typing import Any

from agent.store.cipher import Content, of_channel
from agent.store.errors import ConflictError
from agent.store.rows import ChannelRow, Stage


def append(connection: sqlite3.Connection, row: ChannelRow, content: Content) -> None:
    """One channel row within the current transaction. Raises ConflictError as `Store.channel_append` does."""
    name = f"channel {row.channel_id.hex()[:16]} state {row.incarnation}.{row.version}"
    held = _rows(
        connection,
        "SELECT stage, encoded FROM channel_state WHERE channel_id = ? AND incarnation = ? AND version = ?",
        (row.channel_id, row.incarnation, row.version),
    )
    stages: dict[int, bytes] = dict(held)
    if row.stage in stages:
        if content.open(_place(row), stages[row.stage]) != row.encoded:
            raise ConflictError(f"{name}: another {row.stage.name} is kept for this version")
        return
    if row.stage is not Stage.INTENT:
        if row.stage - 1 not in stages:
            raise ConflictError(f"{name}: {row.stage.name} without {Stage(row.stage - 1).name}")
    else:
        newest = _rows(
            connection,
            "SELECT incarnation, version FROM channel_state WHERE channel_id = ? "
            "ORDER BY incarnation DESC, version DESC LIMIT 1",
            (row.channel_id,),
        )
        if newest and newest[0] >= (row.incarnation, row.version):
            raise ConflictError(f"{name}: versions are never reused, {newest[0][0]}.{newest[0][1]} is the newest")
    connection.execute(
        "INSERT INTO channel_state VALUES (?, ?, ?, ?, ?)",
        (row.channel_id, row.incarnation, row.version, int(row.stage), content.seal(_place(row), row.encoded)),
    )


def _place(row: ChannelRow) -> bytes:
    return of_channel(row.channel_id, row.incarnation, row.version, row.stage)


def _rows(connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(sql, parameters)]
