"""[[input]]: a hard-wired input: STOP button, ripple control, grid operator's relay (SAFETY 1 and 13)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from agent.config.values import AbsolutePath, DeviceId, Section


class InputSettings(Section):
    """[[input]]. As it stands, a broken wire counts as active: the contact opens to act, and the line is pulled up."""

    name: DeviceId = Field(description="Name that people see")
    chip: AbsolutePath = Field(
        Path("/dev/gpiochip0"), description="GPIO chip, or a folder with a file for each line that says 0 or 1"
    )
    line: int = Field(ge=0, le=1023, description="Number of the line on its chip")
    active: Literal["high", "low"] = Field("high", description="Level at which it acts")
    bias: Literal["pull_up", "pull_down", "none", "as_is"] = Field("pull_up", description="The chip's own resistor")
    debounce_s: float = Field(0.1, ge=0, le=10, description="A level counts when it has stood so long, s")
    unreadable: Literal["active", "inactive"] = Field(
        "active", description="What counts while it cannot be read: active is the safe side"
    )
    stop: bool = Field(False, description="Acts as local STOP, until it is cleared by hand")
    export_limit_w: int | None = Field(None, ge=0, description="Most export at the connection while it is active, W")
    import_limit_w: int | None = Field(None, ge=0, description="Most import at the connection while it is active, W")

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.stop and self.export_limit_w is None and self.import_limit_w is None:
            raise ValueError("does nothing: give stop = true, export_limit_w or import_limit_w")
        return self
