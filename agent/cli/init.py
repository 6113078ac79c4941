"""`v2g-gateway init`: token, keys, certificate request and a commented configuration. Run again, it adds what lacks.

A key that is there is never made anew: the gateway's identity is one of them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.cli.template import Given, annotated_config
from agent.config import TokenSettings
from agent.durable import write_whole
from agent.identity.csr import certificate_request
from agent.identity.did import did_of
from agent.identity.errors import HistoryError
from agent.identity.folder import IdentityFolder
from agent.identity.history import encode_history
from agent.identity.purposes import EVIDENCE_KEY, SITE_CA_KEY, UPLINK_KEY, device_key, evidence_key
from agent.token import pin as token_pin
from agent.token import refused_pin, softhsm, softhsm_files
from agent.token.errors import KeyExistsError
from agent.token.token import Token, TokenState
from drivers.device import SignerUnavailableError

READY_S: Final = 30.0
LOOK_EVERY_S: Final = 0.05


class InitError(Exception):
    """The gateway could not be set up. Says at which step, and what to do."""


@dataclass(frozen=True, slots=True)
class Initialised:
    """What there is now."""

    gateway_id: str
    made: tuple[str, ...]
    """What was not there before, for a person."""
    enrolment_dir: Path
    """What the platform needs: uplink.csr, evidence.pem, device-ID.pem of each settled device, and history.cose."""


def make_softhsm_token(settings: TokenSettings, pin: str, conf: Path) -> bool:
    """A SoftHSM token with this label, unless it is there. True when it was made. Raises softhsm.SoftHsmError.

    The security officer's PIN is thrown away: a token whose user PIN is lost is made anew, with new keys.
    """
    assert settings.label is not None
    if settings.label in softhsm.token_labels(module=settings.module, conf=conf):
        return False
    so_pin = secrets.token_hex(12)
    softhsm.init_softhsm_token(module=settings.module, label=settings.label, so_pin=so_pin, user_pin=pin, conf=conf)
    return True


async def make_keys(
    settings: TokenSettings, pin: str, *, name: str, state_dir: Path, settled: Iterable[str], site_ca: bool = False
) -> Initialised:
    """Every key that is missing, and in `state_dir`/enrolment what the platform needs to know of them.

    Raises InitError.
    """
    token = Token(
        module=settings.module,
        label=settings.label,
        serial=settings.serial,
        read_pin=lambda: pin,
        refused_pin_file=state_dir / refused_pin.FILE,
    )
    token.start()
    devices = list(settled)
    made = []
    try:
        async with asyncio.timeout(READY_S):
            await until_ready(token)
        held = await asyncio.to_thread(IdentityFolder(state_dir).history)
        evidence = evidence_key(1 if held is None else held.state.epochs[-1].number)
        wanted = [
            *([EVIDENCE_KEY] if held is None else []),
            UPLINK_KEY,
            *([SITE_CA_KEY] if site_ca else []),
            *map(device_key, devices),
        ]
        for key_id in wanted:
            try:
                await token.create_key(key_id)
                made.append(f"key {key_id.decode()}")
            except KeyExistsError:
                continue
        publics = {"evidence": await token.signer(evidence).meet()}
        for device_id in devices:
            publics[f"device-{device_id}"] = await token.signer(device_key(device_id)).meet()
        uplink = token.signer(UPLINK_KEY)
        await uplink.meet()
        gateway_id = did_of(publics["evidence"]) if held is None else held.state.gateway_id
        request = await certificate_request(uplink, common_name=name, did=gateway_id)
    except TimeoutError:
        raise InitError(f"the token did not become ready within {READY_S:g} s: {token.detail}") from None
    except SignerUnavailableError as error:
        raise InitError(f"the token: {error}") from error
    except HistoryError as error:
        raise InitError(str(error)) from error
    finally:
        await token.close()
    files = {f"{use}.pem": _pem(public) for use, public in publics.items()} | {"uplink.csr": request}
    if held is not None:
        files["history.cose"] = encode_history(held.entries)
    await asyncio.to_thread(_write_files, state_dir / "enrolment", files)
    return Initialised(gateway_id, tuple(made), state_dir / "enrolment")


async def until_ready(token: Token) -> None:
    """Waits until the token can sign. Raises InitError at once for a wrong PIN, which is never tried again."""
    ready = asyncio.create_task(token.wait_ready())
    try:
        while not ready.done():
            if token.state is TokenState.WRONG_PIN:
                raise InitError(f"the token: {token.detail}")
            await asyncio.wait([ready], timeout=LOOK_EVERY_S)
    finally:
        ready.cancel()


def _pem(public_key_der: bytes) -> bytes:
    return load_der_public_key(public_key_der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        put(folder / name, content, mode=0o644)


def put(path: Path, content: bytes, *, mode: int, for_owner_of: Path | None = None) -> None:
    """Write a file whole or not at all, and through no link: root may run this in a folder of the service's user.

    `for_owner_of`: who has that folder, where it is there, gets the file when root writes it: the agent reads it.
    """
    write_whole(path, content, mode=mode, owner_of=for_owner_of)


def write_config(path: Path, given: Given) -> bool:
    """A commented configuration at `path`, unless there is one. True when it was written."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(annotated_config(given), encoding="utf-8")
    return True


def read_pin(reference: str) -> str:
    """The PIN at a secret reference; a file that does not exist is made with a random PIN (mode 0600)."""
    kind, _, name = reference.partition(":")
    path = Path(name)
    if kind == "file" and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, secrets.token_hex(8).encode(), mode=0o600)
    return token_pin.read_pin(reference)


def choose_softhsm(tokens: TokenSettings, state_dir: Path) -> Path | None:
    """The SoftHSM configuration that counts in this process: SOFTHSM2_CONF, else the one in the state directory.

    Sets the environment variable, which is all that the module looks at. None for another module.
    """
    if not softhsm_files.is_softhsm(tokens.module):
        return None
    named = os.environ.get("SOFTHSM2_CONF")
    conf = Path(named) if named else softhsm.write_softhsm_conf(state_dir / "token")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    return conf
