"""How messages take turns with plans: so many between two of them, however many come. A flood starves no device.

Each message costs a plan of its own before it is answered. Whoever waits here holds its stream back, and the platform
with it: what waits is one message a stream, and the moment at which it is judged is the moment of its receipt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

MOST_BETWEEN_PLANS: Final = 8


class Turnstile:
    """One for the controller."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        """`hurry`: somebody waits for the next plan."""
        self._hurry = hurry
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turns = False
        self._left = 0

    async def enter(self) -> bool:
        """Wait for one's turn, in the order of coming. Returns whether there was a wait."""
        if not self._turns:
            return False
        if self._left:
            self._left -= 1
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hurry()
        await turn
        return True

    def open(self) -> None:
        """A plan was made: the next messages may come. From the first time on, no more than these."""
        self._turns, self._left = True, MOST_BETWEEN_PLANS
        self._let_in()
        if self._waiting:
            self._hurry()

    def stay_open(self) -> None:
        """No plan will be made for now: nobody waits for one."""
        self._turns, self._left = False, len(self._waiting)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # One that was cancelled takes nobody's place.
                turn.set_result(None)
                self._left -= 1
