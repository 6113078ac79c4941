"""What `v2g-gateway identity` does: orders made with keys of the token, signed with key files, and carried out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from agent.cli.init import InitError, choose_softhsm, until_ready
from agent.cli.subject_file import read_subject
from agent.clock import Clock
from agent.config import Settings
from agent.evidence import cose
from agent.evidence.cose import VerifyKey, verify_key_of
from agent.evidence.errors import EvidenceError
from agent.evidence.verify import ChainPosition
from agent.identity import history, orders
from agent.identity.cosign import Cosigned
from agent.identity.countersigner import CountersignerError, open_countersigner
from agent.identity.errors import IdentityError
from agent.identity.folder import IdentityFolder
from agent.identity.history import IdentityState
from agent.identity.keys import verify_key_from_pem
from agent.identity.orders import Kind, Order, commitment_of
from agent.identity.purposes import device_key, evidence_key
from agent.identity.subject import (
    Subject,
    possible_keys,
)
from agent.roads.identity import IdentityKeeper
from agent.store import KeySource, Store, StoreInUseError
from agent.store.files import DATABASE, Lock, begin_after, begin_anew
from agent.token.configured import configured_token
from agent.token.errors import KeyExistsError, TokenError
from agent.token.store_key import store_key
from agent.token.token import Curve, Token
from drivers.device import SignerUnavailableError

READY_S: Final = 30.0
CARRIED_OUT_S: Final = 30.0
LOOK_EVERY_S: Final = 0.1

ALGORITHMS: Final[dict[str, tuple[int, Curve]]] = {
    "es256": (cose.ES256, Curve.P256),
    "esp256": (cose.ESP256, Curve.P256),
    "es256k": (cose.ES256K, Curve.SECP256K1),
    "ed25519": (cose.ED25519, Curve.ED25519),
}


class OrderError(Exception):
    """An order cannot be made, signed or carried out. Says at which step, and what to do."""


@asynccontextmanager
async def token_of(settings: Settings) -> AsyncIterator[Token]:
    """The configured token, ready. Raises OrderError."""
    choose_softhsm(settings.token, settings.gateway.state_dir)
    token = configured_token(settings.token, settings.gateway.state_dir)
    token.start()
    try:
        async with asyncio.timeout(READY_S):
            await until_ready(token)
        yield token
    except InitError as error:
        raise OrderError(str(error)) from error
    except TimeoutError:
        raise OrderError(f"the token did not become ready within {READY_S:g} s: {token.detail}") from None
    except (SignerUnavailableError, TokenError) as error:
        raise OrderError(f"the token: {error}") from error
    finally:
        await token.close()


# -- Proposing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What somebody wants to become of an identity."""

    kind: Kind
    subject_file: Path | None
    believed: ChainPosition | None
    algorithm: str
    """Of the key that is committed to now, a name in ALGORITHMS."""
    recovery_key_file: Path | None = None
    """Of a replacement: the public key that was committed to for the lost one."""
    now_us: int


async def propose(settings: Settings, state: IdentityState | None, proposal: Proposal) -> Order:
    """The order, with its keys made on the token where they are missing. Raises OrderError."""
    if (state is None) is not (proposal.kind is Kind.CREATE):
        raise OrderError(
            "there is no history yet: begin with `identity propose create`"
            if state is None
            else f"there is a history already, of {state.gateway_id}"
        )
    async with token_of(settings) as token:
        subject = await _subject(token, settings, state, proposal)
        epoch = 1 if state is None else state.epochs[-1].number
        try:
            if state is not None and proposal.kind.keeps_key:
                key, following = state.key, state.next
            else:
                key = await _own_key(token, state, proposal, epoch if state is None else epoch + 1)
                after = await _made(token, 2 if state is None else epoch + 2, proposal.algorithm)
                following = (commitment_of(after),)
            return Order(
                kind=proposal.kind,
                gateway_id=None if state is None else state.gateway_id,
                number=0 if state is None else state.number + 1,
                previous=None if state is None else state.head,
                issued_us=proposal.now_us,
                key=key,
                next=following,
                subject=subject,
                believed=proposal.believed,
                recovery_key=_recovery_key(proposal),
            )
        except ValueError as error:
            raise OrderError(f"such an order cannot be: {error}") from error


async def _own_key(token: Token, state: IdentityState | None, proposal: Proposal, epoch: int) -> VerifyKey:
    if proposal.kind is not Kind.ROTATE:
        return await _made(token, epoch, proposal.algorithm)
    assert state is not None
    public_key_der = await token.signer(evidence_key(epoch)).meet()
    for key in possible_keys(public_key_der):
        if commitment_of(key) in state.next:
            return key
    raise OrderError(
        f"key {evidence_key(epoch).decode()} of this token is not the one that the history commits to; if the token "
        "was replaced, propose a recovery"
    )


async def _made(token: Token, epoch: int, algorithm: str) -> VerifyKey:
    """The evidence key of an epoch, made unless an earlier proposal made it."""
    number, curve = ALGORITHMS[algorithm]
    key_id = evidence_key(epoch)
    try:
        public_key_der = (await token.create_key(key_id, curve)).public_key_der
    except KeyExistsError:
        public_key_der = await token.signer(key_id).meet()
    made = next((key for key in possible_keys(public_key_der) if key.algorithm == number), None)
    if made is None:
        raise OrderError(
            f"key {key_id.decode()} is on the token already, and not for {algorithm}; choose what it is for"
        )
    return made


async def _subject(token: Token, settings: Settings, state: IdentityState | None, proposal: Proposal) -> Subject:
    if proposal.subject_file is None:
        if state is None:
            raise OrderError("a first order needs --subject FILE: who owns and who operates this gateway")
        return replace(state.subject, countersigner=await _countersigner(token, settings, state, proposal.kind))
    if proposal.kind is Kind.ROTATE:
        raise OrderError("a rotation changes the key and nothing else; propose a change for the rest")
    keys = {}
    for device in settings.device:
        if device.settled:
            keys[device.id] = verify_key_of(await token.signer(device_key(device.id)).meet())
    subject = read_subject(proposal.subject_file, keys)
    return replace(subject, countersigner=await _countersigner(token, settings, state, proposal.kind))


async def _countersigner(token: Token, settings: Settings, state: IdentityState | None, kind: Kind) -> VerifyKey | None:
    """The second key: as the history has it while the first one stays, else the gateway's own, made where it lacks."""
    if state is not None and kind.keeps_key and (state.subject.countersigner is not None or kind is Kind.REPLACE):
        return state.subject.countersigner
    if settings.evidence.countersign == "no":
        return None
    try:
        second = await open_countersigner(token, settings.gateway.state_dir)
        return VerifyKey(cose.ML_DSA_65, second.public_key_der)
    except CountersignerError as error:
        raise OrderError(str(error)) from error


def _recovery_key(proposal: Proposal) -> VerifyKey | None:
    path = proposal.recovery_key_file
    if path is None:
        return None
    try:
        return verify_key_from_pem(path.read_bytes(), what=f"--recovery-key {path}")
    except OSError as error:
        raise OrderError(f"--recovery-key {path}: {error.strerror}") from error
    except IdentityError as error:
        raise OrderError(str(error)) from error


# -- Signing ----------------------------------------------------------------------------------------------------------


def sign_order(envelope: Cosigned, private_pem: bytes, passphrase: bytes | None) -> tuple[Cosigned, VerifyKey]:
    """The order with one signature more, by a key file of the owner or the operator. Raises OrderError."""
    try:
        private = load_pem_private_key(private_pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OrderError(
            f"the private key cannot be read: {str(error).partition('. ')[0][:120]}; PEM is right, and "
            "--passphrase-stdin where it has a passphrase"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise OrderError("the private key is of a kind that is not used here; P-256, secp256k1 and Ed25519 are")
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    order = orders.decode_order(envelope.payload)
    try:
        key_id = verify_key_of(public).key_id
        named = [order.subject.owner.key, order.subject.operator.key]
        if order.recovery_key is not None:
            named.append(order.recovery_key)
        key = next((key for key in named if key.key_id == key_id), verify_key_of(public))
        if key not in named and order.kind is not orders.Kind.CHANGE:
            # A signature cannot be taken back, and a stranger's makes the order void.
            parties = " nor ".join(party.name for party in (order.subject.owner, order.subject.operator))
            raise OrderError(f"this key is neither that of {parties}; nothing was signed")
        message = envelope.to_be_signed(key)
        if isinstance(private, ed25519.Ed25519PrivateKey):
            return envelope.with_signature(key, private.sign(message)), key
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
        return envelope.with_signature(key, r.to_bytes(32) + s.to_bytes(32)), key
    except (EvidenceError, OverflowError) as error:
        raise OrderError(f"the private key cannot sign this: {error}") from error


# -- Carrying out -----------------------------------------------------------------------------------------------------


async def carry_out(settings: Settings, envelope: Cosigned, *, anew: bool = False) -> tuple[IdentityState, bool]:
    """Have an order carried out: by the agent that runs, or here when none does.

    anew: a first order may set the evidence under the key's name aside, whole.

    Gives the state, and False when the agent has not come to it yet. Raises OrderError, HistoryError,
    SignerUnavailableError, StoreError or OSError.
    """
    state_dir = settings.gateway.state_dir
    folder = IdentityFolder(state_dir)
    held = folder.history()
    order = history.check_order(None if held is None else held.state, envelope)
    if order.kind is Kind.RECOVER and order.believed is not None:
        with _locked(state_dir):
            begin_after(state_dir, order.believed.incarnation)
    if anew and order.kind is not Kind.CREATE:
        raise OrderError("--begin-anew is for the first order only: a name that is there goes on with its evidence")
    if anew:
        with _locked(state_dir):
            begin_anew(state_dir)
    try:
        store = await Store.open(state_dir, key=store_key(settings.evidence.store_key_secret))
    except StoreInUseError:
        folder.write_order(envelope)
        return await _awaited(folder, order, None if held is None else held.state)
    async with store, token_of(settings) as token:
        folder.write_order(envelope)
        keeper = IdentityKeeper(state_dir, token=token, store=store, clock=Clock())
        try:
            await keeper.bring_up()
        except SignerUnavailableError:
            if not keeper.trouble:
                raise
        if keeper.trouble or keeper.state is None:
            raise OrderError(keeper.trouble or "the order was not carried out")
        return keeper.state, True


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """No agent runs meanwhile. Raises StoreInUseError."""
    lock = Lock(state_dir)
    try:
        yield
    finally:
        lock.release()


async def _awaited(folder: IdentityFolder, order: Order, before: IdentityState | None) -> tuple[IdentityState, bool]:
    deadline_s = time.monotonic() + CARRIED_OUT_S
    while time.monotonic() < deadline_s:
        held = folder.history()
        if held is not None and held.state.number >= order.number:
            return held.state, True
        if not folder.order_file.exists():
            raise OrderError(f"the agent refused the order and set it aside in {folder.path}; its status says why")
        await asyncio.sleep(LOOK_EVERY_S)
    if before is None:
        raise OrderError("the agent that runs does not take it; stop it, and apply the order again")
    return before, False


async def adopt(state_dir: Path, encoded: bytes, key: KeySource | None = None) -> IdentityState:
    """Take over a history: of the gateway that this one replaces. `key`: of the store, where that is encrypted.

    Raises OrderError, HistoryError, StoreError or OSError.
    """
    entries = history.decode_history(encoded)
    state = history.replay(entries)
    folder = IdentityFolder(state_dir)
    held = folder.history()
    if held is None and (state_dir / DATABASE).exists():
        async with Store.beside(state_dir, key) as store:
            if await store.incarnations():
                raise OrderError(
                    "this gateway has evidence of its own under the name of its key; a replacement begins with none"
                )
    with _locked(state_dir):
        if held is not None and not history.continues(entries, held.entries):
            raise OrderError(f"this gateway has a history of {held.state.gateway_id}, which that one does not continue")
        folder.write_history(entries)
    return state
