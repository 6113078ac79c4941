"""Where passwords that we gave to chargers are kept: a file of mode 0600 for each, in the state directory."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import orjson
import structlog

from agent.config import SecretError, read_secret
from agent.durable import sync_folder
from drivers.ocpp.credentials import KeptPassword

log = structlog.get_logger()


class ChargerPasswords:
    """Fulfils `drivers.ocpp.credentials.PasswordKeeper`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self, charger_id: str) -> KeptPassword | None:
        """A file that cannot be used is as none: the charger waits to be let in by the installer."""
        path = self._path(charger_id, "json")
        try:
            if not await asyncio.to_thread(path.exists):
                return None
            kept = orjson.loads(await asyncio.to_thread(read_secret, f"file:{path}"))
            return KeptPassword(
                passwords=tuple(str(each) for each in kept["passwords"]),
                retired=bool(kept["retired"]),
                instead_of=str(kept["instead_of"]),
            )
        except (SecretError, OSError, ValueError, KeyError, TypeError) as error:
            # The text of a decoding error quotes what it read.
            reason = str(error) if isinstance(error, SecretError) else type(error).__name__
            log.error("charger.password_lost", charger=charger_id, file=str(path), reason=reason)
            return None

    async def keep(self, charger_id: str, kept: KeptPassword) -> None:
        """Raises OSError."""
        await asyncio.to_thread(write_private, self._path(charger_id, "json"), orjson.dumps(asdict(kept)))

    async def hand_over(self, charger_id: str, password: str) -> tuple[str, str]:
        """Raises OSError, and SecretError where the file of an earlier approval cannot be read."""
        path = self._path(charger_id, "password")
        if await asyncio.to_thread(path.exists):
            return await asyncio.to_thread(read_secret, f"file:{path}"), f"file:{path}"
        await asyncio.to_thread(write_private, path, password.encode())
        return password, f"file:{path}"

    def _path(self, charger_id: str, ending: str) -> Path:
        # A charger chooses its name: no part of it may lead out of the folder.
        return self._folder / f"{quote(charger_id, safe='')}.{ending}"


def write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, and there after a power cut."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
