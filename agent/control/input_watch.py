"""Reads the hard-wired inputs many times a second; what cannot be read counts as the installer said (safe side)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agent.config import InputSettings
from agent.control.frequency_watch import Say
from agent.control.inputs import Debounced, InputClamp, step
from agent.evidence.statements import Severity
from drivers.gpio import Bias, Line, LineError, open_line

LOOK_EVERY_S: Final = 0.05
OPEN_AGAIN_S: Final = 1.0

log = structlog.get_logger()

Open = Callable[[Path, int, Bias], Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputState:
    """For people."""

    name: str
    active: bool
    text: str
    """What it does while it is active."""
    trouble: str
    """Why it cannot be read; empty while it can."""


class _Input:
    """One input."""

    def __init__(self, settings: InputSettings) -> None:
        self.settings = settings
        self.line: Line | None = None
        self.open_again_s = float("-inf")
        self.state: Debounced | None = None
        self.trouble = ""

    @property
    def active(self) -> bool:
        """Before the first look as if it could not be read."""
        return self.state.active if self.state is not None else self.settings.unreadable == "active"

    @property
    def text(self) -> str:
        s = self.settings
        parts = ["local STOP"] if s.stop else []
        parts += [] if s.export_limit_w is None else [f"export at most {s.export_limit_w} W"]
        parts += [] if s.import_limit_w is None else [f"import at most {s.import_limit_w} W"]
        return ", ".join(parts)


class InputWatch:
    """One for the gateway. `run` it in a task of its own; `look` may be called besides, before each plan."""

    def __init__(
        self,
        settings: Sequence[InputSettings],
        *,
        say: Say,
        press: Callable[[str], None],
        changed: Callable[[], None],
        monotonic_s: Callable[[], float],
        open_: Open = open_line,
    ) -> None:
        """`press`: local STOP, by whom. `changed`: something that the plan should know."""
        self._inputs = [_Input(each) for each in settings]
        self._say, self._press, self._changed = say, press, changed
        self._monotonic_s = monotonic_s
        self._open = open_

    async def run(self) -> None:
        """Look until cancelled; without inputs there is nothing to do."""
        if not self._inputs:
            await asyncio.Event().wait()
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Read all of them now. Never raises."""
        now_s = self._monotonic_s()
        changed = False
        for each in self._inputs:
            before, trouble_before = each.state, each.trouble
            readable = self._read(each, now_s)
            # A fault is not debounced: it cannot bounce, and the safe side does not wait.
            active = each.settings.unreadable == "active" if readable is None else readable
            debounce_s = 0.0 if readable is None else each.settings.debounce_s
            each.state = step(each.state, active, debounce_s, now_s)
            if before is None or each.state.active != before.active:
                changed |= self._state_change(each, before)
            if each.trouble and not trouble_before:
                counts = "it counts as active" if active else "it counts as not active"
                text = f"input {each.settings.name} cannot be read, and {counts}: {each.trouble}"
                self._say(Severity.WARNING, "input.unreadable", each.settings.name, text[:1000])
            elif trouble_before and not each.trouble:
                self._say(
                    Severity.INFO, "input.readable", each.settings.name, f"input {each.settings.name} is read again"
                )
            if each.active and each.settings.stop:
                self._press(f"input {each.settings.name}")
        if changed:
            self._changed()

    def _state_change(self, each: _Input, before: Debounced | None) -> bool:
        assert each.state is not None
        name = each.settings.name
        if each.state.active:
            self._say(Severity.WARNING, "input.active", name, f"input {name} is active: {each.text}")
        elif before is not None:
            self._say(
                Severity.INFO, "input.inactive", name, f"input {name} is not active any more; it was: {each.text}"
            )
        return True

    def _read(self, each: _Input, now_s: float) -> bool | None:
        """Whether it is at its active level; None where that is not known."""
        try:
            if each.line is None:
                if now_s < each.open_again_s:
                    return None
                each.open_again_s = now_s + OPEN_AGAIN_S
                each.line = self._open(each.settings.chip, each.settings.line, Bias(each.settings.bias))
            level = each.line.read()
        except LineError as error:
            if each.line is not None:
                each.line.close()
            each.line, each.trouble = None, str(error)
            return None
        except Exception as error:  # A fault of ours in reading one input must not take the others, or the plan.
            log.exception("control.input_fault", input=each.settings.name)
            each.trouble = f"fault in its driver: {error!r}"[:200]
            return None
        each.trouble = ""
        return level == (each.settings.active == "high")

    def clamps(self) -> tuple[InputClamp, ...]:
        """Of the active ones."""
        return tuple(
            InputClamp(
                name=each.settings.name,
                export_limit_w=each.settings.export_limit_w,
                import_limit_w=each.settings.import_limit_w,
            )
            for each in self._inputs
            if each.active and (each.settings.export_limit_w is not None or each.settings.import_limit_w is not None)
        )

    def states(self) -> tuple[InputState, ...]:
        """For people."""
        return tuple(
            InputState(name=each.settings.name, active=each.active, text=each.text, trouble=each.trouble)
            for each in self._inputs
        )
