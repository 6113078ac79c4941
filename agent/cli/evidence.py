"""`v2g-gateway verify`: what evidence proves to somebody who trusts a key."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from agent.cli.online import HistoryFrom, Online
from agent.cli.policy import Second, SignatureCount
from agent.evidence import verify
from agent.evidence.attested import AttestationCheck
from agent.evidence.batch import MAX_BATCH_BYTES
from agent.evidence.bundle import BundleHead, Scope, read_bundle
from agent.evidence.cose import VerifyKey
from agent.evidence.countersignature import Policy
from agent.evidence.errors import EvidenceError, MalformedError
from agent.evidence.extract import read_json
from agent.evidence.partial import begins_batch, decode_any
from agent.evidence.signed_values import SignedValueCheck
from agent.evidence.statements import Sealing, Statement, Thinning, kind_of
from agent.evidence.thinning_check import ThinningCheck
from agent.evidence.verify import ChainBreak, TrustedKey, VerifiedBatch, Verifier, Witness
from agent.identity import history
from agent.identity.did import did_of, key_of_did
from agent.identity.errors import IdentityError
from agent.identity.folder import IdentityFolder
from agent.identity.keys import verify_key_from_pem
from agent.identity.purposes import EVIDENCE_KEY
from agent.measure.reading import Reading
from agent.store import Reader

PIN_NOTE = f"journal/token/pin/{EVIDENCE_KEY.hex()}"
"""Where the store has the public key that the gateway seals with."""
MOST_CLAIMS: int = 100
NO_SECOND: Second = Second()


class VerifyError(Exception):
    """The question cannot be answered, or not with yes. Says why."""


class QuestionError(VerifyError):
    """The question is not complete, or in words that mean nothing: wrong use. Says what is missing."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a bundle proves."""

    gateway_id: str
    scope: Scope | None
    """Device and period of an extract; None: a run of the chain."""
    missing: int
    """Of an extract: readings between its first and last that are in it neither by themselves nor merged."""
    batches: int
    statements: dict[str, int]
    """By kind, without the sealings."""
    first_number: int | None
    last_number: int | None
    first_us: int | None
    last_us: int | None
    incarnations: tuple[int, ...]
    """Lives of the gateway's store, in order. More than one is no break, but somebody must be able to explain it."""
    chain_break: ChainBreak | None
    contradictions: tuple[str, ...]
    false_claims: tuple[str, ...]
    """What statements say of meters' signatures, merged readings or TPM quotes and is not so; at most MOST_CLAIMS."""
    signed: SignedValueCheck
    """What meters signed themselves."""
    signatures: SignatureCount
    """Which signatures over the roots hold."""
    thinned: ThinningCheck
    """Leaves that are not there, and what stands for them."""
    attested: AttestationCheck
    """What ran there, and what a TPM says was booted."""

    @property
    def holds(self) -> bool:
        """Everything verified, in one unbroken chain, without contradictions or false claims."""
        return self.chain_break is None and not self.contradictions and not self.false_claims


def private_file(path: Path) -> BinaryIO:
    """A file to write evidence to. Readings say when somebody is at home: whom to show them is for the owner to decide.

    Raises OSError.
    """
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


async def gateway_and_keys(store: Reader, state_dir: Path) -> tuple[str, tuple[bytes, ...]]:
    """The gateway's name, "" before it has one, and the keys that it seals and sealed with. Raises HistoryError."""
    held = IdentityFolder(state_dir).history()
    if held is not None:
        return held.state.gateway_id, tuple(epoch.key.public_key_der for epoch in held.state.epochs)
    pin = await store.note(PIN_NOTE)
    return (did_of(pin), (pin,)) if pin else ("", ())


def trusted_keys(
    head: BundleHead,
    gateway: str | None,
    key_files: Iterable[Path],
    known: Path | HistoryFrom | None = None,
    second: Second = NO_SECOND,
) -> list[TrustedKey]:
    """The keys that the person at the terminal trusts; `known`: the gateway's history, or its file.

    Raises VerifyError when there is none, or one cannot be read.
    """
    if known is not None:
        found = read_history(known, gateway) if isinstance(known, Path) else known
        if found.state.gateway_id != head.gateway_id:
            raise VerifyError(f"the file is about {head.gateway_id[:80]}, the history is of {found.state.gateway_id}")
        epochs = found.state.trusted_keys(second.policy)
        if second.key is not None:
            return [replace(epoch, countersigner=second.key) for epoch in epochs]
        if second.policy is not Policy.EITHER and all(epoch.countersigner is None for epoch in epochs):
            raise VerifyError(f"--history {found.source}: names no second key; give it with --countersigner FILE.pem")
        return epochs
    if gateway is not None and gateway.startswith(history.PREFIX):
        raise QuestionError(
            "--gateway did:v2g:... is named by its history: give it with --history FILE (the gateway's "
            "`identity history --out FILE`, or the platform's copy), or say where it is had with --online URL"
        )
    keys: list[VerifyKey] = []
    if gateway is not None:
        try:
            keys.append(key_of_did(gateway))
        except IdentityError as error:
            raise QuestionError(f"--gateway: {error}") from error
        if gateway != head.gateway_id:
            raise VerifyError(f"the file is about {head.gateway_id[:80]}, not about {gateway[:80]}")
    for path in key_files:
        try:
            keys.append(verify_key_from_pem(path.read_bytes(), what=f"--key {path}"))
        except OSError as error:
            raise VerifyError(f"--key {path}: {error.strerror}") from error
        except IdentityError as error:
            raise VerifyError(str(error)) from error
    if not keys:
        raise QuestionError(
            "name whom you trust: --gateway did:key:... (shown there by v2g-gateway identity show), or --key FILE.pem; "
            f"the file itself says that it is from {head.gateway_id[:80]}"
        )
    if gateway is None and head.gateway_id not in map(_name_of, keys):
        # A key vouches for its own gateway. That it belongs to another one only its enrolment can say.
        raise VerifyError(
            f"the file is about {head.gateway_id[:80]}, which none of these keys is: name that gateway too with "
            "--gateway, if you know it as enrolled with this key"
        )
    return [TrustedKey(head.gateway_id, key, countersigner=second.key, policy=second.policy) for key in keys]


def read_history(file: Path, gateway: str | None) -> HistoryFrom:
    """A history at hand, of this gateway where one is named. Raises VerifyError."""
    try:
        entries = history.decode_history(file.read_bytes())
        return HistoryFrom(str(file), entries, history.replay(entries, gateway_id=gateway))
    except OSError as error:
        raise VerifyError(f"--history {file}: {error.strerror}") from error
    except IdentityError as error:
        raise VerifyError(f"--history {file}: {error}") from error


def _name_of(key: VerifyKey) -> str | None:
    """The did:key of a key; None for kinds that have none."""
    try:
        return did_of(key.public_key_der)
    except IdentityError:
        return None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A file, opened: whom it says that it is of, and its batches."""

    head: BundleHead
    batches: Iterator[bytes]


def open_evidence(file: BinaryIO) -> Evidence:
    """A bundle, an extract as CBOR or JSON, or one batch. Raises MalformedError, also while iterating."""
    beginning = file.read(64)
    file.seek(0)
    if beginning.lstrip()[:1] == b"{":
        return Evidence(*read_json(file))
    if begins_batch(beginning):
        encoded = file.read(MAX_BATCH_BYTES + 1)
        return Evidence(BundleHead(decode_any(encoded).identity.gateway_id, ()), iter([encoded]))
    return Evidence(*read_bundle(file))


def verify_file(
    file: BinaryIO,
    gateway: str | None,
    key_files: Iterable[Path],
    known: Path | HistoryFrom | None = None,
    second: Second = NO_SECOND,
    online: Online | None = None,
    tpm_key: VerifyKey | None = None,
) -> Findings:
    """Verify evidence, batch by batch, and against what was fetched.

    Raises VerifyError, or EvidenceError with the place of the first fault.
    """
    opened = open_evidence(file)
    head = opened.head
    verifier = Verifier(trusted_keys(head, gateway, key_files, known, second))
    if online is not None:
        online.judge(head.gateway_id, verifier)
    looked = _Looked(head, second, tpm_key)
    count = 0
    for count, encoded in enumerate(opened.batches, start=1):
        try:
            batch = verifier.verify_batch(encoded)
        except EvidenceError as error:
            raise type(error)(f"batch {count} of the file{_after(looked.last)}: {error}") from error
        if batch.identity.gateway_id != head.gateway_id:
            raise MalformedError(f"batch {count} of the file is of another gateway: {batch.identity.gateway_id[:80]}")
        looked.see(batch)
        if online is not None:
            online.see(batch.position)
    if online is not None:
        online.done(chain=head.scope is None)
    return looked.findings(count, () if online is None else online.contradictions)


class _Looked:
    """What was seen of a file so far."""

    def __init__(self, head: BundleHead, second: Second, tpm_key: VerifyKey | None) -> None:
        self._head = head
        self._signatures = SignatureCount(second)
        self._witness = Witness()
        self._kinds: Counter[str] = Counter()
        self._contradictions: list[str] = []
        self._signed, self._thinned, self._false_claims = SignedValueCheck(), ThinningCheck(), list[str]()
        self._attested = AttestationCheck(tpm_key)
        self._first: VerifiedBatch | None = None
        self.last: VerifiedBatch | None = None
        """Up to where everything held."""
        self._chain_break: ChainBreak | None = None
        self._incarnations: dict[int, None] = {}
        self._times: list[int] = []
        self._runs: dict[int, tuple[int, int, int]] = {}
        """By incarnation: first and last sequence of an extract's device, and how many there are."""

    def see(self, batch: VerifiedBatch) -> None:
        """The next batch."""
        said = [s.statement for s in batch.statements if not isinstance(s.statement, Sealing)]
        self._kinds.update(kind_of(statement).name.lower() for statement in said)
        self._signatures.see(batch)
        self._thinned.see(batch)
        self._contradictions.extend(found.subject for found in self._witness.see_batch(batch))
        self._false_claims += [claim for s in batch.statements for claim in self._signed.see(s.statement, s.hash)]
        self._false_claims += [claim for statement in said for claim in self._attested.see(statement)]
        if self._head.scope is not None:
            self._see_extract(batch, said, self._head.scope)
        elif self._chain_break is None:
            after = None if self.last is None else self.last.position
            self._chain_break = verify.first_break([batch], after=after)
        self._incarnations.setdefault(batch.identity.incarnation)
        if batch.sealing is not None:
            self._times = [*self._times[:1], batch.sealing.sealed_at_us]
        self._first, self.last = self._first or batch, batch

    def _see_extract(self, batch: VerifiedBatch, said: Sequence[Statement], scope: Scope) -> None:
        """Batches of an extract are no chain, but in its order, and about one device."""
        i = batch.identity
        if self.last is not None and self._chain_break is None:
            before = self.last.identity
            if (i.incarnation, i.number) <= (before.incarnation, before.number):
                why = f"extract: batch {i.number} of incarnation {i.incarnation} after batch {before.number}"
                self._chain_break = ChainBreak(self.last.position, i, why)
        for statement in said:
            if getattr(statement, "device_id", scope.device_id) != scope.device_id:
                self._false_claims.append(
                    f"batch {i.number}: has a statement of another device than {scope.device_id[:64]}"
                )
            if isinstance(statement, Reading):
                self._count(statement.incarnation, statement.sequence, statement.sequence)
            elif isinstance(statement, Thinning):
                for slot in statement.slots:
                    self._count(statement.incarnation, slot.first_sequence, slot.last_sequence)

    def _count(self, incarnation: int, first: int, last: int) -> None:
        before = self._runs.get(incarnation, (first, last, 0))
        self._runs[incarnation] = min(before[0], first), max(before[1], last), before[2] + last - first + 1

    def findings(self, count: int, elsewhere: Sequence[str] = ()) -> Findings:
        """What all of it proves; `elsewhere`: what was fetched and contradicts it."""
        first, last = self._first, self.last
        claims = [*self._false_claims, *self._thinned.false_claims()]
        return Findings(
            gateway_id=self._head.gateway_id,
            scope=self._head.scope,
            missing=sum(max(0, last - first + 1 - count) for first, last, count in self._runs.values()),
            batches=count,
            statements=dict(sorted(self._kinds.items())),
            first_number=None if first is None else first.identity.number,
            last_number=None if last is None else last.identity.number,
            first_us=self._times[0] if self._times else None,
            last_us=self._times[-1] if self._times else None,
            incarnations=tuple(self._incarnations),
            chain_break=self._chain_break,
            contradictions=(*self._contradictions, *elsewhere),
            false_claims=tuple(claims[:MOST_CLAIMS]),
            signed=self._signed,
            signatures=self._signatures,
            thinned=self._thinned,
            attested=self._attested,
        )


def _after(last: VerifiedBatch | None) -> str:
    """Up to where everything held."""
    if last is None:
        return ""
    return f", the one after batch {last.identity.number} of incarnation {last.identity.incarnation}"
