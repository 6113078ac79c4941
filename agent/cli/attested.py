"""What `verify` shows of attestations and of the TPM's quotes in them: for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agent.evidence.attested import AttestationCheck
from agent.evidence.cose import VerifyKey
from agent.evidence.tpm_quote import Quoted
from agent.identity.keys import verify_key_from_pem

TpmKeyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The TPM key that you trust (quote.pem): the gateway's attestations are by it."),
]


def tpm_key_of(path: Path | None) -> VerifyKey | None:
    """Raises KeyFileError or OSError."""
    return None if path is None else verify_key_from_pem(path.read_bytes(), what=f"--tpm-key {path}")


def attested_lines(found: AttestationCheck) -> Iterator[str]:
    """Nothing where nothing was attested."""
    if found.newest is None:
        return
    attestation, quote = found.newest
    yield (
        f"Attested {found.count} times, last {_time(attestation.timestamp_us)}: version "
        f"{attestation.software_version}, software {attestation.software_digest.hex()[:16]}, metrology "
        f"{attestation.metrology_digest.hex()[:16]}."
    )
    if quote is not None:
        whose = "the one that you trust" if found.known_key is not None else "compare it with `quote`'s"
        yield (
            f"  {found.quoted.total()} of them hold a TPM's quote, the last by key {quote.key_name.hex()[:20]} "
            f"({whose}) over PCRs {', '.join(map(str, quote.pcrs))}, after {quote.reset_count} boots."
        )
    if len(found.quoted) > 1:
        yield f"  They are by {len(found.quoted)} TPMs: ask the gateway's owner why."


def attested_open(found: AttestationCheck) -> Iterator[str]:
    """What stays open."""
    if found.newest is None:
        return
    if found.quoted and found.known_key is None:
        yield "that the quotes are by the gateway's own TPM, and that it is a genuine one: give --tpm-key"
    elif found.known_key is not None and found.newest[1] is None:
        yield "that the newest attestation is of the machine of --tpm-key: it holds no quote"


def attested_json(found: AttestationCheck) -> dict[str, object]:
    """The same for machines."""
    newest = found.newest
    return {
        "count": found.count,
        "quoted": {name.hex(): count for name, count in found.quoted.items()},
        "newest": None
        if newest is None
        else {
            "timestamp_us": newest[0].timestamp_us,
            "valid_until_us": newest[0].valid_until_us,
            "software_version": newest[0].software_version,
            "software_digest": newest[0].software_digest.hex(),
            "metrology_digest": newest[0].metrology_digest.hex(),
            "quote": None if newest[1] is None else _quote_json(newest[1]),
        },
    }


def _quote_json(quote: Quoted) -> dict[str, object]:
    return {
        "key_name": quote.key_name.hex(),
        "key": quote.key.public_key_der.hex(),
        "pcrs": {str(index): value.hex() for index, value in quote.pcrs.items()},
        "reset_count": quote.reset_count,
        "restart_count": quote.restart_count,
    }


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
