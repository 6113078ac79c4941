"""What sealing begins with: the gateway's name, the key that seals, and the second key where one is configured."""

from __future__ import annotations

import asyncio
from typing import Final

from agent.config import Settings
from agent.evidence.cose import VerifyKey
from agent.identity.countersigner import MlDsaCountersigner, open_countersigner
from agent.identity.errors import HistoryError
from agent.roads.identity import IdentityKeeper
from agent.roads.patience import patiently
from agent.roads.problems import Problems
from agent.token.token import Token
from drivers.device import Signer, SignerUnavailableError

HISTORY_RETRY_S: Final = 10.0


async def wait_name_and_key(identity: IdentityKeeper, problems: Problems) -> tuple[str, Signer]:
    """As soon as the token is there, and the history where there is one: another name is never taken instead."""
    while True:
        try:
            named = await patiently(identity.bring_up)
            problems.solved("identity")
            return named
        except (HistoryError, OSError) as error:
            problems.note("identity", f"nothing is sealed: {error}")
            await asyncio.sleep(HISTORY_RETRY_S)


def second_key_problem(named: VerifyKey | None, countersigner: MlDsaCountersigner | None) -> str:
    """What is wrong where the history names another second key than the one that signs; empty when nothing is."""
    if named is None or (countersigner is not None and countersigner.public_key_der == named.public_key_der):
        return ""
    signs = "none" if countersigner is None else "another one"
    return f"the history names a second key and {signs} signs here: verifiers with policy both refuse it; rotate"


async def wait_countersigner(settings: Settings, token: Token, problems: Problems) -> MlDsaCountersigner | None:
    """The second key, where it is configured. Without it nothing is sealed: what is wrong is shown meanwhile."""
    if settings.evidence.countersign == "no":
        return None

    async def open_it() -> MlDsaCountersigner:
        try:
            return await open_countersigner(token, settings.gateway.state_dir)
        except SignerUnavailableError as error:
            problems.note("countersignature", f"{error}; readings are stored and wait for it")
            raise

    opened = await patiently(open_it)
    problems.solved("countersignature")
    return opened
