"""`v2g-gateway export` and `verify`: evidence out of the store, and what it proves to somebody who trusts a key."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.evidence import verify
from agent.evidence.bundle import BundleHead, encode_batch_item, read_bundle
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError, MalformedError
from agent.evidence.signed_values import SignedValueCheck
from agent.evidence.statements import Sealing, kind_of
from agent.evidence.thinning_check import ThinningCheck
from agent.evidence.verify import ChainBreak, TrustedKey, VerifiedBatch, Verifier, Witness
from agent.identity import history
from agent.identity.did import did_of, key_of_did
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem
from agent.store import Reader

PAGE: int = 256
MOST_CLAIMS: int = 100


class VerifyError(Exception):
    """The question cannot be answered. Says what is missing."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a bundle proves."""

    gateway_id: str
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
    """What statements say of meters' signatures and is not so; at most MOST_CLAIMS."""
    signed: SignedValueCheck
    """What meters signed themselves."""
    thinned: ThinningCheck
    """Leaves that are not there, and what stands for them."""

    @property
    def holds(self) -> bool:
        """Everything verified, in one unbroken chain, without contradictions or false claims."""
        return self.chain_break is None and not self.contradictions and not self.false_claims


def private_file(path: Path) -> BinaryIO:
    """A file to write evidence to. Readings say when somebody is at home: whom to show them is for the owner to decide.

    Raises OSError.
    """
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


async def export_batches(store: Reader, file: BinaryIO, head: BundleHead) -> AsyncIterator[int]:
    """Write every batch that the store holds; gives the number of batches written, after each page."""
    file.write(head.encode())
    written = 0
    for incarnation in await store.incarnations():
        number = 1
        while page := await store.batches(number, PAGE, incarnation=incarnation):
            for batch in page:
                file.write(encode_batch_item(batch.encoded))
            written += len(page)
            number = page[-1].number + 1
            yield written


def trusted_keys(
    head: BundleHead, gateway: str | None, key_files: Iterable[Path], history_file: Path | None = None
) -> list[TrustedKey]:
    """The keys that the person at the terminal trusts. Raises VerifyError when there is none, or one cannot be read."""
    if history_file is not None:
        return _keys_of_history(head, gateway, history_file)
    if gateway is not None and gateway.startswith(history.PREFIX):
        raise VerifyError(
            "--gateway did:v2g:... is named by its history: give it with --history FILE (the gateway's "
            "`identity history --out FILE`, or the platform's copy)"
        )
    keys: list[VerifyKey] = []
    if gateway is not None:
        try:
            keys.append(key_of_did(gateway))
        except IdentityError as error:
            raise VerifyError(f"--gateway: {error}") from error
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
        raise VerifyError(
            "name whom you trust: --gateway did:key:... (shown by v2g-gateway status), or --key FILE.pem; "
            f"the file itself says that it is from {head.gateway_id[:80]}"
        )
    if gateway is None and head.gateway_id not in map(_name_of, keys):
        # A key vouches for its own gateway. That it belongs to another one only its enrolment can say.
        raise VerifyError(
            f"the file is about {head.gateway_id[:80]}, which none of these keys is: name that gateway too with "
            "--gateway, if you know it as enrolled with this key"
        )
    return [TrustedKey(head.gateway_id, key) for key in keys]


def _keys_of_history(head: BundleHead, gateway: str | None, file: Path) -> list[TrustedKey]:
    try:
        state = history.replay(history.decode_history(file.read_bytes()), gateway_id=gateway)
    except OSError as error:
        raise VerifyError(f"--history {file}: {error.strerror}") from error
    except IdentityError as error:
        raise VerifyError(f"--history {file}: {error}") from error
    if state.gateway_id != head.gateway_id:
        raise VerifyError(f"the file is about {head.gateway_id[:80]}, the history is of {state.gateway_id}")
    return state.trusted_keys()


def _name_of(key: VerifyKey) -> str | None:
    """The did:key of a key; None for kinds that have none."""
    try:
        return did_of(key.public_key_der)
    except IdentityError:
        return None


def verify_file(
    file: BinaryIO, gateway: str | None, key_files: Iterable[Path], history_file: Path | None = None
) -> Findings:
    """Verify a bundle, batch by batch. Raises VerifyError, or EvidenceError with the place of the first fault."""
    head, encoded_batches = read_bundle(file)
    verifier = Verifier(trusted_keys(head, gateway, key_files, history_file))
    witness = Witness()
    kinds: Counter[str] = Counter()
    contradictions: list[str] = []
    signed, thinned, false_claims = SignedValueCheck(), ThinningCheck(), []
    first: VerifiedBatch | None = None
    last: VerifiedBatch | None = None
    chain_break: ChainBreak | None = None
    incarnations: dict[int, None] = {}
    first_us: int | None = None
    last_us: int | None = None
    count = 0
    for count, encoded in enumerate(encoded_batches, start=1):
        try:
            batch = verifier.verify_batch(encoded)
        except EvidenceError as error:
            raise type(error)(f"batch {count} of the file: {error}") from error
        if batch.identity.gateway_id != head.gateway_id:
            raise MalformedError(f"batch {count} of the file is of another gateway: {batch.identity.gateway_id[:80]}")
        kinds.update(
            kind_of(s.statement).name.lower() for s in batch.statements if not isinstance(s.statement, Sealing)
        )
        thinned.see(batch)
        contradictions.extend(found.subject for found in witness.see_batch(batch))
        false_claims += [said for s in batch.statements for said in signed.see(s.statement, s.hash)]
        if chain_break is None:
            chain_break = verify.first_break([batch], after=None if last is None else last.position)
        incarnations.setdefault(batch.identity.incarnation)
        if batch.sealing is not None:
            last_us = batch.sealing.sealed_at_us
            first_us = last_us if first_us is None else first_us
        first, last = first or batch, batch
    false_claims += thinned.false_claims()
    return Findings(
        gateway_id=head.gateway_id,
        batches=count,
        statements=dict(sorted(kinds.items())),
        first_number=None if first is None else first.identity.number,
        last_number=None if last is None else last.identity.number,
        first_us=first_us,
        last_us=last_us,
        incarnations=tuple(incarnations),
        chain_break=chain_break,
        contradictions=tuple(contradictions),
        false_claims=tuple(false_claims[:MOST_CLAIMS]),
        signed=signed,
        thinned=thinned,
    )
