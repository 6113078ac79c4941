"""Asks the running agent over its local socket. No password: the socket's mode decides who may."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "control.sock"
ANSWER_S: Final = 5.0
LISTEN_S: Final = 60.0
"""A tap sends a line at least this often."""


class AgentUnreachableError(Exception):
    """The agent does not answer. Says where it was looked for and what to do."""

    exit_code: Final = 1


class RefusedError(Exception):
    """The agent answered, and said no. Says why."""

    def __init__(self, why: str, status: int) -> None:
        super().__init__(why)
        self.exit_code = 2 if status == http.HTTPStatus.BAD_REQUEST else 1
        """2: what was asked is wrong, and would be at any time."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, answer_s: float) -> None:
        super().__init__("gateway", timeout=answer_s)
        self._path = path
        self._answer_s = answer_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._answer_s)
        self.sock.connect(str(self._path))


def ask(state_dir: Path, path: str, *, press_by: str | None = None) -> object:
    """The JSON answer of the agent to a GET, or with `press_by` to a POST. Raises AgentUnreachableError."""
    with _answer(state_dir, path, press_by=press_by) as answer:
        body = answer.read()
        if answer.status >= 400 and answer.status != 503:
            raise AgentUnreachableError(f"the agent refused {path}: {body[:200].decode(errors='replace')}")
        return json.loads(body)


def order(
    state_dir: Path, path: str, asked: object = None, *, press_by: str | None = None, answer_s: float = ANSWER_S
) -> object:
    """As `ask`, with a body; what the agent refused raises RefusedError with its reason."""
    with _answer(state_dir, path, press_by=press_by, body=asked, answer_s=answer_s) as answer:
        told = json.loads(answer.read())
        if answer.status >= 400:
            reason = told.get("error") if isinstance(told, dict) else None
            raise RefusedError(str(reason or f"the agent refused {path}"), answer.status)
        return told


@contextmanager
def listen(state_dir: Path, path: str) -> Iterator[Iterator[bytes]]:
    """Lines of an answer that does not end. Raises RefusedError and AgentUnreachableError."""
    with _answer(state_dir, path, answer_s=LISTEN_S) as answer:
        if answer.status >= 400:
            raise RefusedError(str(json.loads(answer.read()).get("error")), answer.status)
        yield iter(answer.readline, b"")


@contextmanager
def _answer(
    state_dir: Path, path: str, *, press_by: str | None = None, body: object = None, answer_s: float = ANSWER_S
) -> Iterator[http.client.HTTPResponse]:
    where = state_dir / SOCKET_NAME
    connection = _UnixConnection(where, answer_s)
    try:
        if press_by is None:
            connection.request("GET", path)
        else:
            content = None if body is None else json.dumps(body).encode()
            connection.request("POST", path, body=content, headers={"X-V2G-Gateway": press_by})
        yield connection.getresponse()
    except FileNotFoundError:
        raise AgentUnreachableError(
            f"no agent runs with state in {state_dir} ({where} does not exist): "
            "systemctl status v2g-gateway, or v2g-gateway run"
        ) from None
    except PermissionError:
        raise AgentUnreachableError(f"{where}: only the gateway's user and root may ask; try with sudo") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AgentUnreachableError(f"{where}: the agent does not answer: {error}") from error
    finally:
        connection.close()
