"""`v2g-gateway identity`: who this gateway is, and how that changes: proposed, signed by two, applied."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from agent.cli import identity_orders as work
from agent.cli.asking import settings_of
from agent.cli.evidence import private_file
from agent.cli.identity_words import moment, order_facts, order_lines, state_facts, state_lines
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.config import DEFAULT_PATH, SecretError, Settings
from agent.evidence.verify import ChainPosition
from agent.identity import history, orders
from agent.identity.cosign import Cosigned
from agent.identity.did import did_of
from agent.identity.document import Json, device_document, gateway_document, practice_document
from agent.identity.enrolment import fingerprint_words
from agent.identity.errors import IdentityError
from agent.identity.folder import Held, IdentityFolder
from agent.identity.history import IdentityState
from agent.identity.keys import verify_key_from_pem
from agent.identity.orders import Kind
from agent.identity.purposes import EVIDENCE_KEY
from agent.store import Store, StoreError
from agent.token.softhsm import SoftHsmError
from drivers.device import SignerUnavailableError

app = typer.Typer(help="Who this gateway is: name, keys, owner and operator.", no_args_is_help=True)

ORDER_NAME: Final = "order.cose"
TROUBLES: Final = (
    work.OrderError, IdentityError, StoreError, SecretError, SoftHsmError, SignerUnavailableError,
)  # fmt: skip

OrderArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The order, as `propose` wrote it.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; STATE/enrolment/order.cose otherwise.")
]
SubjectOption = Annotated[
    Path | None,
    typer.Option("--subject", metavar="FILE", help="Owner, operator, location, ratings and devices, TOML (README)."),
]
AlgorithmOption = Annotated[
    str, typer.Option("--algorithm", help="Of the next key: " + ", ".join(work.ALGORITHMS) + "; as the token has it.")
]


@app.command()
def show(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Name, key epoch, owner and operator of this gateway, and whether an order waits."""
    settings = settings_of(config, as_json)
    held = _held(settings, as_json)
    folder = IdentityFolder(settings.gateway.state_dir)
    gateway_id = held.state.gateway_id if held is not None else _named_by_key(settings)
    waits = folder.order_file.exists()
    if as_json:
        facts: dict[str, Json] = {"ok": True, "gateway_id": gateway_id, "order_waits": waits}
        if gateway_id:
            facts["fingerprint"] = fingerprint_words(gateway_id)
        emit_json(facts | ({} if held is None else state_facts(held.state)))
        return
    _say(f"Gateway {gateway_id or 'without a name yet: the token has not shown its key'}")
    if gateway_id:
        _say(f"Fingerprint for people: {fingerprint_words(gateway_id)}")
    if held is None:
        _say("It is named by its evidence key (did:key): that key cannot be rotated. For sites that last, see README.")
    else:
        for line in state_lines(held.state):
            _say(line)
    if waits:
        _say(f"An order waits in {folder.order_file}: the agent carries it out, or says why not in its status.")


@app.command("history")
def show_history(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it to a file for verifiers.")] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Every entry of this gateway's history; --out writes what a verifier needs."""
    settings = settings_of(config, as_json)
    held = _held(settings, as_json)
    if held is None:
        fail("this gateway is named by its key and has no history", as_json=as_json)
    if out is not None:
        try:
            with private_file(out) as file:
                file.write(history.encode_history(held.entries))
        except OSError as error:
            fail(os_error(error, out), as_json=as_json)
    rows: list[Json] = []
    state: IdentityState | None = None
    for entry in held.entries:
        state = history.step(state, entry)
        kind = orders.decode_order(history.order_of(entry).payload).kind
        rows.append(
            {
                "number": state.number,
                "kind": kind.name.lower(),
                "applied_us": state.applied_us,
                "hash": state.head.hex(),
                "epoch": state.epochs[-1].number,
                "key_id": state.key.key_id.hex(),
                "owner": state.subject.owner.name,
                "operator": state.subject.operator.name,
            }
        )
        if not as_json:
            _say(
                f"{state.number:>4}  {moment(state.applied_us)}  {kind.name.lower():<8} key {state.epochs[-1].number} "
                f"({state.key.key_id.hex()[:16]}), {state.subject.owner.name} / {state.subject.operator.name}"
            )
    if as_json:
        emit_json({"ok": True, "gateway_id": held.state.gateway_id, "entries": rows})


@app.command()
def document(
    device: Annotated[str | None, typer.Option(metavar="ID", help="Of a device; of the gateway otherwise.")] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """The DID document of this gateway or of a device behind it, JSON either way."""
    settings = settings_of(config, as_json)
    held = _held(settings, as_json)
    try:
        if held is None:
            if device is not None:
                fail("only a gateway with a history names its devices", as_json=as_json)
            emit_json(practice_document(_named_by_key(settings)))
        elif device is None:
            emit_json(gateway_document(held.state, settings.web.public_url))
        else:
            emit_json(device_document(held.state, device))
    except IdentityError as error:
        fail(str(error), as_json=as_json)


@app.command()
def propose(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="create, rotate, change, recover or replace.")],
    out: OutOption = None,
    subject: SubjectOption = None,
    believed: Annotated[
        str | None,
        typer.Option(metavar="INCARNATION:NUMBER:ROOT", help="recover: the last batch of the lost key to believe."),
    ] = None,
    recovery_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="replace: the recovery key of who lost a key, its public half, PEM."),
    ] = None,
    algorithm: AlgorithmOption = "es256",
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Write an order for owner and operator to sign, with new keys on the token where it takes them.

    Nothing changes until it is signed and applied; an order that nobody signs can be thrown away.
    """
    if kind.upper() not in Kind.__members__:
        fail(f"{kind[:40]!r}: create, rotate, change, recover or replace", code=2, as_json=as_json)
    if algorithm not in work.ALGORITHMS:
        fail(f"--algorithm {algorithm[:40]!r}: one of {', '.join(work.ALGORITHMS)}", code=2, as_json=as_json)
    settings = settings_of(config, as_json)
    held = _held(settings, as_json)
    proposal = work.Proposal(
        kind=Kind[kind.upper()],
        subject_file=subject,
        believed=None if believed is None else _position(believed, as_json),
        algorithm=algorithm,
        now_us=time.time_ns() // 1000,
        recovery_key_file=recovery_key,
    )
    state = None if held is None else held.state
    try:
        order = asyncio.run(work.propose(settings, state, proposal))
        draft = orders.draft(order)
        target = out or settings.gateway.state_dir / "enrolment" / ORDER_NAME
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(draft.encode())
    except TROUBLES as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, settings.gateway.state_dir), as_json=as_json)
    missing = [party.name for party in history.signers_of(state, order)]
    if as_json:
        emit_json({"ok": True, "file": str(target), "missing": missing} | order_facts(order))
        return
    for line in order_lines(order):
        _say(line)
    _say(f"Written to {target}. To be signed by {' and '.join(missing)}: v2g-gateway identity sign FILE --key KEY.pem")


@app.command()
def rotate(
    out: OutOption = None,
    algorithm: AlgorithmOption = "es256",
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Propose a rotation of the evidence key: to the one that the history commits to. As `propose rotate`."""
    propose("rotate", out=out, algorithm=algorithm, config=config, as_json=as_json)


@app.command()
def sign(
    file: OrderArgument,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key of the owner or the operator, PEM.")],
    passphrase_stdin: Annotated[
        bool, typer.Option("--passphrase-stdin", help="Read the key's passphrase from standard input.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign an order, on a machine of the owner's or operator's own: says what it does, and adds the signature."""
    envelope = _order_in(file, as_json)
    passphrase = sys.stdin.readline().rstrip("\n").encode() if passphrase_stdin else None
    try:
        order = orders.decode_order(envelope.payload)
        signed, by = work.sign_order(envelope, key.read_bytes(), passphrase)
        file.write_bytes(signed.encode())
    except TROUBLES as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, file), as_json=as_json)
    named = {p.key.key_id: p.name for p in (order.subject.owner, order.subject.operator)}
    name = named.get(by.key_id, "")
    if as_json:
        emit_json(
            {"ok": True, "signed_by": name or by.key_id.hex(), "signatures": len(signed.signatures)}
            | order_facts(order)
        )
        return
    for line in order_lines(order):
        _say(line)
    who = name or f"key {by.key_id.hex()[:16]}"
    _say(f"Signed by {who}. The order has {_signatures(len(signed.signatures))}.")
    if not name:
        _say("The order does not name this key: it counts only as that of the owner or operator before the change.")


@app.command()
def review(file: OrderArgument, as_json: JsonOption = False) -> None:
    """Say what an order does, before signing it. Needs nothing but the file."""
    envelope = _order_in(file, as_json)
    try:
        order = orders.decode_order(envelope.payload)
    except IdentityError as error:
        fail(str(error), as_json=as_json)
    signed = {one.key_id for one in envelope.signatures}
    missing = [party.name for party in history.signers_of(None, order) if party.key.key_id not in signed]
    if as_json:
        emit_json({"ok": True, "signatures": len(signed), "missing": missing} | order_facts(order))
        return
    for line in order_lines(order):
        _say(line)
    _say(f"{_signatures(len(signed))}. Not signed by: {', '.join(missing) or 'nobody that the order names'}.")


@app.command()
def apply(
    file: OrderArgument,
    begin_anew: Annotated[
        bool,
        typer.Option("--begin-anew", help="create: set aside what was measured under the key's name, and begin empty."),
    ] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Have a signed order carried out, by the agent that runs or here when none does. Exit code 1: it was not."""
    settings = settings_of(config, as_json)
    envelope = _order_in(file, as_json)
    try:
        state, done = asyncio.run(work.carry_out(settings, envelope, anew=begin_anew))
    except TROUBLES as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, settings.gateway.state_dir), as_json=as_json)
    if not done:
        fail("the order waits: the agent has not carried it out yet; its status says why", as_json=as_json)
    if as_json:
        emit_json({"ok": True, "gateway_id": state.gateway_id} | state_facts(state))
        return
    _say(f"Done. Gateway {state.gateway_id}")
    for line in state_lines(state):
        _say(line)
    _say("Give the new history to whoever verifies (identity history --out FILE), and run enroll where names changed.")


@app.command()
def adopt(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The history of the gateway that this one replaces.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Take over another gateway's history on the box that replaces it. Then propose, sign and apply a recovery."""
    settings = settings_of(config, as_json)
    try:
        state = asyncio.run(work.adopt(settings.gateway.state_dir, file.read_bytes()))
    except TROUBLES as error:
        fail(f"{file}: {error}", as_json=as_json)
    except OSError as error:
        fail(os_error(error, file), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "gateway_id": state.gateway_id} | state_facts(state))
        return
    _say(f"This box is to become {state.gateway_id}. It signs nothing until a recovery is applied: propose recover.")


# -- Words ------------------------------------------------------------------------------------------------------------


def _held(settings: Settings, as_json: bool) -> Held | None:
    try:
        return IdentityFolder(settings.gateway.state_dir).history()
    except IdentityError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, settings.gateway.state_dir), as_json=as_json)


def gateway_id_of(settings: Settings) -> str:
    """This gateway's name; empty before it has a key. Raises HistoryError or OSError."""
    held = IdentityFolder(settings.gateway.state_dir).history()
    return _named_by_key(settings) if held is None else held.state.gateway_id


def _named_by_key(settings: Settings) -> str:
    """did:key of a gateway without a history; empty before the agent has met its key."""

    async def pin() -> bytes | None:
        async with Store.beside(settings.gateway.state_dir) as store:
            return await store.note(f"journal/token/pin/{EVIDENCE_KEY.hex()}")

    try:
        public_key_der = asyncio.run(pin())
    except StoreError:
        public_key_der = None
    if public_key_der is None:
        public_key_der = _published(settings)
    return "" if public_key_der is None else did_of(public_key_der)


def _published(settings: Settings) -> bytes | None:
    """The evidence key as `init` wrote it for enrolment."""
    try:
        pem = (settings.gateway.state_dir / "enrolment" / "evidence.pem").read_bytes()
        return verify_key_from_pem(pem, what="evidence.pem").public_key_der
    except (OSError, IdentityError):
        return None


def _signatures(count: int) -> str:
    return f"{count} signature{'' if count == 1 else 's'}"


def _order_in(file: Path, as_json: bool) -> Cosigned:
    try:
        return orders.decode_envelope(file.read_bytes())
    except IdentityError as error:
        fail(f"{file}: {error}", as_json=as_json)
    except OSError as error:
        fail(os_error(error, file), as_json=as_json)


def _position(text: str, as_json: bool) -> ChainPosition:
    parts = text.split(":")
    try:
        if len(parts) != 3:
            _wrong_position(text, as_json)
        place = ChainPosition(int(parts[0]), int(parts[1]), bytes.fromhex(parts[2]))
    except ValueError:
        _wrong_position(text, as_json)
    if place.incarnation < 1 or place.number < 1 or len(place.root) != 32:
        _wrong_position(text, as_json)
    return place


def _wrong_position(text: str, as_json: bool) -> NoReturn:
    why = "write INCARNATION:NUMBER:ROOT, the root in 64 hexadecimal digits, as the platform has it acknowledged"
    fail(f"--believed {text[:80]!r}: {why}", code=2, as_json=as_json)


def _say(line: str) -> None:
    console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
