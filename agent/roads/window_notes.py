"""Under which names the store keeps how far settlement windows are."""

from __future__ import annotations

from typing import Final

PROGRESS_NOTE: Final = "window/"
"""By device: how far its windows are closed."""
WAITING_NOTE: Final = "unsettled/"
"""By device and hash: windows that are closed and not signed by both sides."""
CLOSED_NOTE: Final = "windows-closed"
"""How many were."""
