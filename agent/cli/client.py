"""Asks the running agent over its local socket. No password: the socket's mode decides who may."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = "control.sock"
ANSWER_S: Final = 5.0


class AgentUnreachableError(Exception):
    """The agent does not answer. Says where it was looked for and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("gateway", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(str(self._path))


def ask(state_dir: Path, path: str, *, press_by: str | None = None) -> object:
    """The JSON answer of the agent to a GET, or with `press_by` to a POST. Raises AgentUnreachableError."""
    where = state_dir / SOCKET_NAME
    connection = _UnixConnection(where)
    try:
        if press_by is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, headers={"X-V2G-Gateway": press_by})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status >= 400 and answer.status != 503:
            raise AgentUnreachableError(f"the agent refused {path}: {body[:200].decode(errors='replace')}")
        return json.loads(body)
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
