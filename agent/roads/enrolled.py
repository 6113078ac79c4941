"""What the link to the platform needs of the token and of the files that an enrolment leaves: waited for together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.config import PlatformSettings, Settings
from agent.evidence.cose import VerifyKey
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem
from agent.identity.purposes import UPLINK_KEY, device_key
from agent.identity.trust_roots import TrustRoots, trust_roots_from_pem
from agent.roads.devices import channel_terms
from agent.roads.patience import patiently
from agent.roads.problems import Problems
from agent.roads.settling import SettledDevice
from agent.token.token import Token
from drivers.device import Journal, Signer

ENROLMENT_RETRY_S: Final = 10.0
SUBJECT: Final = "enrolment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """Everything is there."""

    platform_key: VerifyKey
    roots: TrustRoots
    uplink: Signer
    settled: Sequence[SettledDevice]


async def wait_enrolled(
    platform: PlatformSettings,
    settings: Settings,
    gateway_id: str,
    *,
    token: Token,
    journal: Journal,
    problems: Problems,
) -> Enrolled:
    """As soon as files and keys are there; what lacks is shown meanwhile."""

    async def read() -> Enrolled:
        return await _read(platform, settings, gateway_id, token, journal)

    while True:
        try:
            enrolled = await patiently(read)
            problems.solved(SUBJECT)
            return enrolled
        except (OSError, IdentityError) as error:
            problems.note(SUBJECT, f"{error}; enrol this gateway, then it connects by itself")
            await asyncio.sleep(ENROLMENT_RETRY_S)


async def _read(
    platform: PlatformSettings, settings: Settings, gateway_id: str, token: Token, journal: Journal
) -> Enrolled:
    platform_pem = await asyncio.to_thread(platform.platform_key_file.read_bytes)
    roots_pem = await asyncio.to_thread(platform.trust_root_file.read_bytes)
    return Enrolled(
        platform_key=verify_key_from_pem(platform_pem, what=str(platform.platform_key_file)),
        roots=trust_roots_from_pem(roots_pem, platform.trust_threshold, what=str(platform.trust_root_file)),
        uplink=await token.pinned_signer(UPLINK_KEY, journal),
        settled=[
            SettledDevice(
                device_id=device.id,
                period_s=device.period_s,
                signer=await token.pinned_signer(device_key(device.id), journal),
                terms=channel_terms(settings, gateway_id, device.id),
            )
            for device in settings.device
            if device.settled
        ],
    )
