"""A counter in the TPM that only rises: what tells a store from a copy of it. Through tpm2-tools, with fixed arguments.

It is guarded by 16 random bytes that stand in a file beside the store: another TPM, or a counter that somebody defined
anew, does not know them, and nobody else on this machine raises it by mistake. A TPM never lets a counter that is
defined anew begin below one that it had before. All of this blocks.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Final

from agent.token.tpm import TpmError, run, working_folder

FILE: Final = "tpm-counter.json"
"""In the state directory, mode 0600."""
INDEX: Final = "0x01805632"
"""In the owner's range of NV indices."""
MOST_FILE_BYTES: Final = 4096
_FORMAT: Final = "v2g-gateway/tpm-counter"
_VERSION: Final = 1
_GUARD_BYTES: Final = 16

# The guard goes in by a file: arguments of a process are for everybody to see. no_da: a wrong guard locks nothing.
_DEFINE: Final = (
    "tpm2_nvdefine", "-Q", "-C", "o", "-a", "authread|authwrite|no_da|nt=counter", "-p", "file:guard", INDEX,
)  # fmt: skip
_UNDEFINE: Final = ("tpm2_nvundefine", "-Q", "-C", "o", INDEX)
_INCREMENT: Final = ("tpm2_nvincrement", "-Q", "-C", INDEX, "-P", "file:guard", INDEX)
_READ: Final = ("tpm2_nvread", "-C", INDEX, "-P", "file:guard", "-s", "8", INDEX)


class TpmCounter:
    """The counter of this gateway."""

    def __init__(self, guard: str) -> None:
        self._guard = guard

    def read(self) -> int:
        """Where it stands. Raises TpmError: also for a counter with another guard, and where there is none."""
        return self._asked(_READ)

    def increment(self) -> int:
        """Raise it by one, and say where it stands then. After a TpmError it may have risen or not: read it again."""
        self._asked(_INCREMENT, reads=False)
        return self.read()

    def _asked(self, command: tuple[str, ...], *, reads: bool = True) -> int:
        with working_folder() as folder:
            (folder / "guard").write_text(self._guard, encoding="ascii")
            said = run(command, folder)
        if reads and len(said) != 8:
            raise TpmError(f"{command[0]} gave {len(said)} bytes, and a counter has 8")
        return int.from_bytes(said, "big")


def define() -> bytes:
    """Define a counter in the TPM and raise it once, so that it can be read. What to keep of it in FILE.

    Raises TpmError: also where there is one already, which may be another gateway's.
    """
    guard = secrets.token_hex(_GUARD_BYTES)
    with working_folder() as folder:
        (folder / "guard").write_text(guard, encoding="ascii")
        try:
            run(_DEFINE, folder)
        except TpmError as error:
            if "already defined" in str(error):
                text = f"the TPM has a counter at {INDEX} already; if no gateway uses it: tpm2_nvundefine -C o {INDEX}"
                raise TpmError(text) from error
            raise
        try:
            run(_INCREMENT, folder)
        except TpmError:
            run(_UNDEFINE, folder)
            raise
    return json.dumps({"format": _FORMAT, "version": _VERSION, "index": INDEX, "guard": guard}).encode() + b"\n"


def undefine() -> None:
    """Remove what `define` made and nothing could be kept of. Raises TpmError."""
    with working_folder() as folder:
        run(_UNDEFINE, folder)


def open_counter(path: Path) -> TpmCounter | None:
    """The counter that a file tells of; None when there is no file. Raises TpmError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            kept = file.read(MOST_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TpmError(f"{path}: {error.strerror}") from error
    try:
        read = json.loads(kept)
        if len(kept) > MOST_FILE_BYTES or (read["format"], read["version"]) != (_FORMAT, _VERSION):
            raise ValueError("another format or version")
        if read["index"] != INDEX or len(bytes.fromhex(read["guard"])) != _GUARD_BYTES:
            raise ValueError("another index or guard")
    except (ValueError, KeyError, TypeError) as error:
        raise TpmError(f"{path}: is not what counter wrote; put it back, or remove it") from error
    return TpmCounter(read["guard"])
