"""The files of an identity in the state directory: its history, and the order that waits to be carried out.

Each is written whole or not at all. The history's rename is the moment in which an order has been carried out; until
then the order that lies there is the intent, and a crash at any point leaves one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.identity import history, orders
from agent.identity.cosign import Cosigned
from agent.identity.errors import HistoryError
from agent.identity.history import IdentityState
from agent.store.files import write_durably

FOLDER: Final = "identity"
HISTORY: Final = "history.cose"
ORDER: Final = "order.cose"
REFUSED: Final = "order-refused.cose"


@dataclass(frozen=True, slots=True)
class Held:
    """The history that a gateway holds, verified."""

    entries: tuple[bytes, ...]
    state: IdentityState


class IdentityFolder:
    """Blocks; every method raises OSError beside what it says."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FOLDER

    @property
    def history_file(self) -> Path:
        return self.path / HISTORY

    @property
    def order_file(self) -> Path:
        return self.path / ORDER

    def history(self) -> Held | None:
        """None when this gateway is named by its key. Raises HistoryError when the file is damaged."""
        encoded = _read(self.history_file)
        if encoded is None:
            return None
        try:
            entries = history.decode_history(encoded)
            return Held(entries, history.replay(entries))
        except HistoryError as error:
            raise HistoryError(
                f"{self.history_file}: {error}; put back a copy of it: without, this gateway has no name"
            ) from error

    def write_history(self, entries: Sequence[bytes]) -> None:
        """Durable when it returns."""
        self.path.mkdir(mode=0o750, exist_ok=True)
        write_durably(self.history_file, history.encode_history(entries))

    def order(self) -> Cosigned | None:
        """The order that waits; its signatures are not verified. Raises HistoryError when the file is damaged."""
        encoded = _read(self.order_file)
        return None if encoded is None else orders.decode_envelope(encoded)

    def write_order(self, order: Cosigned) -> None:
        """Durable when it returns."""
        self.path.mkdir(mode=0o750, exist_ok=True)
        write_durably(self.order_file, order.encode())

    def done_with_order(self) -> None:
        """It has been carried out."""
        self.order_file.unlink(missing_ok=True)

    def refuse_order(self) -> None:
        """It cannot be carried out: kept aside, to be looked at."""
        self.order_file.replace(self.path / REFUSED)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
