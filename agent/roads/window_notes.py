"""Under which names the store keeps how far settlement windows are."""

from __future__ import annotations

from typing import Final

PROGRESS_NOTE: Final = "window/"
"""By device: how far its windows are closed."""
WAITING_NOTE: Final = "unsettled/"
"""By device and hash: windows that are closed and not signed by both sides."""
CLOSED_NOTE: Final = "windows-closed"
"""How many were."""
BEFORE_NOTE: Final = "window-before/"
"""By device and hash of each that waits: how far windows were closed before it. Goes with the note that it waits."""
