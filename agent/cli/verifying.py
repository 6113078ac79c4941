"""`v2g-gateway verify`: what a file of evidence proves and what not, for a person and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from agent.cli import evidence
from agent.cli.attested import TpmKeyOption, attested_json, attested_lines, attested_open, tpm_key_of
from agent.cli.online import ForkedError, HistoryFrom, Online
from agent.cli.online_options import (
    CaOption,
    OnlineOption,
    TrustRootOption,
    TrustThresholdOption,
    looked_up,
    places_of,
)
from agent.cli.options import JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.cli.policy import CountersignerOption, PolicyError, PolicyOption, Second, second_of
from agent.cli.signed_values import signed_values_json, signed_values_lines
from agent.cli.thinned import thinned_json, thinned_lines
from agent.evidence.attested import AttestationCheck
from agent.evidence.batch import MAX_RECEIPT_BYTES, decode_receipt
from agent.evidence.bundle import BundleHead
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError
from agent.evidence.plain import fields_of
from agent.evidence.proof import MAGIC, MAX_BYTES, decode_proof, verify_proof
from agent.evidence.statements import SettlementWindow, kind_of
from agent.evidence.verify import ChainPosition, VerifiedStatement, Verifier
from agent.identity.errors import IdentityError
from agent.identity.history import device_keys
from agent.identity.keys import verify_key_from_pem
from agent.identity.locations import LocationError
from agent.ledger.errors import LedgerError
from agent.ledger.proof import verify_channel
from agent.ledger.state import SignedState

NOT_PROVEN = (
    "This proves who signed what, and in which order. It does not prove that a device told the truth:\n"
    "each reading says how its value was obtained (open bus, authenticated link, signed by the meter)."
)


def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `export` or `prove` wrote, one batch, or one receipt.")
    ],
    gateway: Annotated[
        str | None, typer.Option(metavar="DID", help="The gateway that you trust: did:key:... or did:v2g:...")
    ] = None,
    key: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A public key that you trust, PEM; may be repeated.")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="History of a did:v2g gateway: its keys, each for its part."),
    ] = None,
    online: OnlineOption = None,
    ca: CaOption = None,
    trust_root: TrustRootOption = None,
    trust_threshold: TrustThresholdOption = 1,
    policy: PolicyOption = "either",
    countersigner: CountersignerOption = None,
    statement: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With a receipt: the statement's exact bytes.")
    ] = None,
    device_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With a proof: the device's key that you trust, PEM.")
    ] = None,
    platform_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With a proof or --online: the platform's key that you trust, PEM."),
    ] = None,
    tpm_key: TpmKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify evidence, and say what it proves and what it does not. Exit code 1 when anything does not hold.

    Nothing is fetched unless a URL is given; what cannot be had is said, and the verdict is then by what is at hand.
    """
    try:
        second = second_of(policy, countersigner, has_history=history is not None or bool(online))
        theirs = None if platform_key is None else _key(platform_key, "--platform-key")
        tpm = tpm_key_of(tpm_key)
        places = places_of(history, online or [], ca, theirs, trust_root, trust_threshold, gateway)
        looked, known = looked_up(gateway, history, places)
        trusted = Trusted(gateway, key or [], known, device_key, theirs, second, looked, tpm)
        with file.open("rb") as opened:
            beginning = opened.read(32)
            opened.seek(0)
            if MAGIC.encode() in beginning:
                single = _proof(opened.read(MAX_BYTES + 1), trusted)
            elif beginning[:2] == b"\xd2\x84":
                single = _receipt(opened.read(MAX_RECEIPT_BYTES + 1), statement, trusted)
            else:
                single = None
                found = evidence.verify_file(opened, gateway, key or [], known, second, looked, tpm)
    except (evidence.QuestionError, LocationError) as error:
        fail(f"{file}: {error}", code=2, as_json=as_json)
    except (evidence.VerifyError, EvidenceError, LedgerError, PolicyError, ForkedError, IdentityError) as error:
        fail(f"{file}: {error}", as_json=as_json)
    except OSError as error:
        fail(os_error(error, file), as_json=as_json)
    if single is not None:
        _show_single(file, single, looked, as_json)
        raise typer.Exit(1 if looked.contradictions else 0)
    if as_json:
        emit_json(
            _findings_json(found)
            | {"online": looked.as_json(), "not_proven": [*attested_open(found.attested), *looked.not_proven()]}
        )
    else:
        for line in _findings_lines(file, found, looked):
            console.print(line, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found.holds else 1)


@dataclass(frozen=True, slots=True)
class Single:
    """One statement that is proven, and its way up."""

    gateway_id: str
    statement: VerifiedStatement
    window: VerifiedStatement | None = None
    state: SignedState | None = None
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the person at the terminal trusts."""

    gateway: str | None
    keys: list[Path]
    history: HistoryFrom | None
    device_key: Path | None = None
    platform_key: VerifyKey | None = None
    second: Second = evidence.NO_SECOND
    online: Online = field(default_factory=Online)
    tpm_key: VerifyKey | None = None

    def verifier(self, gateway_id: str) -> Verifier:
        """For what is said to be of a gateway. Raises VerifyError."""
        head = BundleHead(gateway_id, ())
        verifier = Verifier(evidence.trusted_keys(head, self.gateway, self.keys, self.history, self.second))
        self.online.judge(gateway_id, verifier)
        return verifier


def _receipt(encoded: bytes, statement: Path | None, trusted: Trusted) -> Single:
    """Raises VerifyError, EvidenceError, OSError."""
    if statement is None:
        raise evidence.QuestionError("a receipt proves a statement that is not in it: name its file with --statement")
    gateway_id = decode_receipt(encoded).header.identity.gateway_id
    verifier = trusted.verifier(gateway_id)
    proven = verifier.verify_receipt(encoded, statement.read_bytes())
    check = AttestationCheck(trusted.tpm_key)
    for claim in check.see(proven.statement):
        raise evidence.VerifyError(claim)
    return Single(gateway_id, proven, lacking=tuple(attested_open(check)))


def _proof(encoded: bytes, trusted: Trusted) -> Single:
    """Raises VerifyError, EvidenceError, LedgerError, OSError."""
    proof = decode_proof(encoded)
    proven = verify_proof(proof, trusted.verifier(proof.gateway_id))
    if proof.channel is None:
        lacking = ["that it is settled: there is no channel state in the file"]
        if proven.window is None:
            lacking.insert(0, "that it is in a settlement window: there is none in the file")
        return Single(proof.gateway_id, proven.reading, proven.window, None, tuple(lacking))
    assert proven.window is not None
    theirs = None if trusted.device_key is None else _key(trusted.device_key, "--device-key")
    platform = trusted.platform_key
    signed = verify_channel(proof.channel, proven.window, device_key=theirs, platform_key=platform)
    lacking = []
    if theirs is None and not _named(signed, proven.window, trusted.history):
        key_id = signed.state.key_id.hex()
        lacking.append(f"that the device's key (SHA-256 {key_id}) is the enrolled one: give --device-key")
    if platform is None:
        lacking.append("that the platform signed the channel state: give --platform-key")
    return Single(proof.gateway_id, proven.reading, proven.window, signed, tuple(lacking))


def _named(signed: SignedState, window: VerifiedStatement, known: HistoryFrom | None) -> bool:
    """Whether the gateway's history names the device's key; False: it names none. Raises VerifyError for another."""
    if known is None or not isinstance(window.statement, SettlementWindow):
        return False
    device_id = window.statement.device_id
    keys = device_keys(known.entries, device_id)
    if keys and signed.state.key_id not in keys:
        raise evidence.VerifyError(
            f"the channel state is signed with key {signed.state.key_id.hex()[:16]}, and the gateway's history names "
            f"{', '.join(key_id.hex()[:16] for key_id in keys)} for {device_id[:64]}"
        )
    return bool(keys)


def _key(path: Path, option: str) -> VerifyKey:
    try:
        return verify_key_from_pem(path.read_bytes(), what=f"{option} {path}")
    except IdentityError as error:
        raise evidence.VerifyError(str(error)) from error


def _show_single(file: Path, single: Single, online: Online, as_json: bool) -> None:
    s, w, state = single.statement, single.window, single.state
    for each in (s,) if w is None else (s, w):
        online.see(ChainPosition(each.batch.incarnation, each.batch.number, each.root))
    lacking = [*single.lacking, *online.not_proven()]
    if as_json:
        emit_json(
            {
                "ok": not online.contradictions,
                "gateway_id": single.gateway_id,
                "kind": kind_of(s.statement).name.lower(),
                "statement": fields_of(s.statement),
                "incarnation": s.batch.incarnation,
                "batch_number": s.batch.number,
                "index": s.index,
                "window": None if w is None else fields_of(w.statement),
                "channel_state": None if state is None else state.state.digest.hex(),
                "not_proven": lacking,
                "online": online.as_json(),
            }
        )
        return
    lines = [
        f"{file}: one {kind_of(s.statement).name.lower().replace('_', ' ')}, leaf {s.index} of batch {s.batch.number} "
        f"of incarnation {s.batch.incarnation}.",
        *(f"  {name} {value}" for name, value in fields_of(s.statement).items()),
        f"It was signed by {single.gateway_id}.",
    ]
    if w is not None and isinstance(w.statement, SettlementWindow):
        v = w.statement
        lines.append(
            f"It is one of {v.reading_count} readings of the window from {_time(v.window_start_us)} to "
            f"{_time(v.window_end_us)}, {v.net_energy_wh:+d} Wh, signed by the same gateway."
        )
    if state is not None:
        lines.append(f"That window is in {state.state}, signed with the device's key.")
    lines += [f"Two contents under one identity: {text}." for text in online.contradictions]
    lines += [*online.lines(), *(f"Not proven: {text}." for text in lacking)]
    for line in [*lines, NOT_PROVEN]:
        console.print("\n".join(map(plain, line.split("\n"))), markup=False, highlight=False, soft_wrap=True)


def _findings_json(found: evidence.Findings) -> dict[str, object]:
    scope = found.scope
    return {
        "ok": found.holds,
        "gateway_id": found.gateway_id,
        "device_id": None if scope is None else scope.device_id,
        "missing_readings": None if scope is None else found.missing,
        "batches": found.batches,
        "statements": found.statements,
        "first_number": found.first_number,
        "last_number": found.last_number,
        "first_us": found.first_us,
        "last_us": found.last_us,
        "incarnations": found.incarnations,
        "chain_break": None if found.chain_break is None else found.chain_break.why,
        "contradictions": found.contradictions,
        "false_claims": found.false_claims,
        "signed_values": signed_values_json(found.signed),
        "signatures": found.signatures.as_json(),
        "thinned": thinned_json(found.thinned),
        "attestations": attested_json(found.attested),
    }


def _findings_lines(file: Path, found: evidence.Findings, online: Online) -> Iterator[str]:
    """With markup."""
    counted = ", ".join(f"{count} {kind}" for kind, count in found.statements.items()) or "no statements"
    yield escape(f"{file}: {found.batches} batches, {counted}.")
    if found.chain_break is not None:
        yield f"[red]The chain breaks:[/] {escape(plain(found.chain_break.why))}"
    for subject in found.contradictions:
        yield f"[red]Two contents under one identity:[/] {escape(plain(subject))}"
    for claim in found.false_claims:
        yield f"[red]Not so:[/] {escape(plain(claim))}"
    for line in (
        *signed_values_lines(found.signed),
        *thinned_lines(found.thinned),
        *found.signatures.lines(),
        *attested_lines(found.attested),
    ):
        yield escape(plain(line))
    if len(found.incarnations) > 1:
        lives = ", ".join(map(str, found.incarnations))
        text = f"It has incarnations {lives}: the gateway's store was lost or a backup restored. Ask its owner why."
        yield f"[yellow]{text}[/]"
    yield from (escape(plain(line)) for line in online.lines())
    if not found.holds:
        return
    yield f"All of it was signed by {escape(plain(found.gateway_id))},"
    if not found.batches:
        yield "There is nothing in it."
    elif found.scope is not None:
        device = escape(plain(found.scope.device_id))
        yield f"each batch by itself: this is an extract of {device} and no run of the chain."
        yield (
            "From its first to its last reading there is no gap in the sequence."
            if not found.missing
            else f"[yellow]{found.missing} readings between its first and its last are not in it.[/]"
        )
    else:
        several = " of the last incarnation." if len(found.incarnations) > 1 else "."
        yield f"in one unbroken chain of batches {found.first_number} to {found.last_number}{several}"
    for text in (*attested_open(found.attested), *online.not_proven()):
        yield escape(plain(f"Not proven: {text}."))
    yield NOT_PROVEN


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
