"""`v2g-gateway new-life`: the way out for the right box when its card was copied and a copy has gone on, too."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from agent.cli.asking import settings_of
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.config import DEFAULT_PATH
from agent.roads.restored import NEW_LIFE_NOTE
from agent.store import StoreError
from agent.store.backup import begin_another_life
from agent.token.store_key import store_key


class Because(Enum):
    """Why there is to be another life."""

    CLONED = "cloned"


WORDS = {Because.CLONED: "its card was copied, and a copy went on under its name"}


def new_life(
    because: Annotated[Because, typer.Option(help="Why.", show_default=False)],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """After the card was copied: begin another incarnation.

    For the one right box, once every other one with its card is off, with the agent stopped. The chain that the
    platform refuses, since it has a copy's, is left; a signed alarm tells where. What is behind that is not sent any
    more; it stays here as disputed, for `export`.
    """
    settings = settings_of(config, as_json)
    state_dir = settings.gateway.state_dir
    try:
        ended = begin_another_life(
            state_dir,
            {NEW_LIFE_NOTE: WORDS[because].encode()},
            key=store_key(settings.evidence.store_key_secret),
        )
    except StoreError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, state_dir), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "incarnation_before": ended})
        return
    text = f"Incarnation {ended} ends here; the next start begins another one, and says so in a signed alarm."
    console.print(plain(text), markup=False, highlight=False, soft_wrap=True)
