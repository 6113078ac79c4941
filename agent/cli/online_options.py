"""`verify --online` as a person at the terminal asks for it, and the history that counts after looking."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.evidence import QuestionError, VerifyError, read_history
from agent.cli.online import HistoryFrom, Online, Places, locations_of, look_up
from agent.evidence.cose import VerifyKey
from agent.identity import history
from agent.identity.errors import IdentityError
from agent.identity.locations import require_url
from agent.identity.trust_roots import TrustRoots, trust_roots_from_pem

OnlineOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL|FILE",
        help="Fetch from there what is lacking: history, newest batch, acknowledgement. Or a DID document that names "
        "the place; may be repeated.",
    ),
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="Who certifies the web servers, PEM; else the system's.")
]
TrustRootOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --online: the trust list too, under these roots, PEM.")
]
TrustThresholdOption = Annotated[
    int, typer.Option(min=1, max=16, metavar="K", help="How many of the roots must have signed it.")
]


def places_of(
    known: str | None,
    online: list[str],
    ca: Path | None,
    platform_key: VerifyKey | None,
    trust_root: Path | None,
    threshold: int,
    gateway: str | None,
) -> Places:
    """Raises QuestionError, LocationError, VerifyError or OSError."""
    url = require_url(known) if known is not None and "://" in known else None
    if url is not None and (gateway is None or not gateway.startswith(history.PREFIX)):
        raise QuestionError(
            "--history URL: what a web server gives is checked against the name that you trust: give it with "
            "--gateway did:v2g:..."
        )
    places = Places(
        history_url=url,
        locations=locations_of(online, gateway),
        tls=None if ca is None else _tls(ca),
        platform_key=platform_key,
        roots=None if trust_root is None else _roots(trust_root, threshold),
    )
    if not places.locations and (trust_root is not None or (ca is not None and url is None)):
        raise QuestionError("--trust-root and --ca are for what is fetched: say from where with --online URL")
    return places


def _tls(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise VerifyError(f"--ca {ca}: {error.strerror or error}; a certificate in PEM is right") from error


def _roots(path: Path, threshold: int) -> TrustRoots:
    try:
        return trust_roots_from_pem(path.read_bytes(), threshold, what=f"--trust-root {path}")
    except IdentityError as error:
        raise VerifyError(str(error)) from error


def looked_up(gateway: str | None, known: str | None, places: Places) -> tuple[Online, HistoryFrom | None]:
    """What was fetched, and the history that counts: the longest of those at hand and there.

    Raises VerifyError, ForkedError or OSError.
    """
    at_hand = None if known is None or places.history_url is not None else read_history(Path(known), gateway)
    online = look_up(gateway, at_hand, places)
    if places.any and online.best is None and gateway is not None and gateway.startswith(history.PREFIX):
        why = "; ".join(f"{wanted.url}: {why}" for wanted, why in online.refused)
        raise VerifyError(
            f"the history of {gateway[:80]} could not be had ({why}), and without it nothing can be verified; "
            "give a copy of it with --history FILE"
        )
    return online, online.best
