"""Asks responders whether certificates of plug and charge were revoked, for chargers and for ourselves, with a cache.

OCPP 2.0.1 part 2, M06 and C07 (2.1: GetCertificateChainStatus). A charger names the responder: only those that the
owner has allowed are asked, so that nobody sends this gateway anywhere else. An answer is good until its own end, also
while the network is away and over restarts; where there is none, the specification's "Failed" is said in time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, cast
from urllib.parse import urlsplit

import orjson
import structlog
from cryptography import x509

from drivers.device import Journal
from drivers.ocpp.crl import lists_of_chain
from drivers.ocpp.messages import AuthorizeRequest
from drivers.ocpp.ocsp import (
    Answer,
    CertId,
    Word,
    asked_of_chain,
    ids_of_chain,
    read_answer,
    read_hash_data,
    request_for,
    status_of,
)
from drivers.ocpp.revocation_lists import FetchList, RevocationLists
from drivers.ocpp.schemas import Json, JsonObject, Version

Fetch = Callable[[str, bytes], Awaitable[bytes]]
"""POSTs a request to a URL; the response's body. Raises OSError or ValueError."""

MOST_KEPT: Final = 64
"""Answers; some kilobytes each."""
MOST_UNDER_WAY: Final = 4
ANSWER_S: Final = 3.0
"""A charger's line waits so long for an answer from elsewhere; it is fetched to its end, for the next question."""
AGAIN_S: Final = 60.0
"""Before a responder that had no answer is asked for it again."""
LONGEST: Final = {Version.V201: 5500, Version.V21: 18_000}
"""Characters of `ocspResult`."""
_KEY: Final = "ocsp"

_log = structlog.get_logger()


class Revocations:
    """For all chargers of a site. `hosts`: "host" or "host:port" of the responders that may be asked."""

    def __init__(
        self,
        fetch: Fetch,
        hosts: Collection[str],
        *,
        journal: Journal,
        monotonic_s: Callable[[], float],
        wall_us: Callable[[], int],
        fetch_list: FetchList | None = None,
        list_hosts: Collection[str] = (),
    ) -> None:
        """`list_hosts`: from where lists of revoked certificates may be fetched, written as `hosts`."""
        self._fetch = fetch
        self._hosts = frozenset(host.lower() for host in hosts)
        self._lists: RevocationLists | None = None
        if fetch_list is not None and list_hosts:
            fetched_from = frozenset(host.lower() for host in list_hosts)
            self._lists = RevocationLists(
                fetch_list, lambda url: _allowed(url, fetched_from), now=self._now, monotonic_s=monotonic_s
            )
        self._journal = journal
        self._monotonic_s = monotonic_s
        self._wall_us = wall_us
        self._kept: OrderedDict[CertId, Answer] = OrderedDict()
        # By place too: a charger that names a wrong one takes no answer from the others.
        self._failed_s: OrderedDict[tuple[CertId, str], float] = OrderedDict()
        self._under_way: dict[tuple[CertId, str], asyncio.Task[Answer | None]] = {}

    async def recall(self) -> None:
        """Go on with the answers that were kept; damaged ones are asked for anew."""
        kept = await self._journal.recall(_KEY)
        if kept is None:
            return
        try:
            for each in orjson.loads(kept):
                cert_id = CertId(each[0], bytes.fromhex(each[1]), bytes.fromhex(each[2]), int(each[3], 16))
                self._kept[cert_id] = read_answer(base64.b64decode(each[4]), cert_id, self._now())
        except (ValueError, KeyError, TypeError, IndexError) as error:
            _log.info("ocsp_not_recalled", problem=str(error)[:100])

    # --- what chargers ask

    async def certificate_status(self, payload: JsonObject, version: Version) -> JsonObject:
        """GetCertificateStatus (M06): the answer."""
        data = cast(Mapping[str, Json], payload["ocspRequestData"])
        answer = await self._of(data, str(data["responderURL"]))
        if answer is None:
            return {"status": "Failed"}
        result = base64.b64encode(answer.der).decode()
        if len(result) > LONGEST[version]:
            text = f"the answer has {len(result)} characters, {LONGEST[version]} fit"
            return {"status": "Failed", "statusInfo": {"reasonCode": "TooLargeElement", "additionalInfo": text}}
        return {"status": "Accepted", "ocspResult": result}

    async def chain_status(self, payload: JsonObject, issuers: Sequence[x509.Certificate]) -> JsonObject:
        """GetCertificateChainStatus (M07, 2.1): the answer. `issuers`: whose signatures on lists can be verified."""
        told: list[Json] = []
        for asked in asked_of_chain(payload):
            answer = None
            data, urls = cast(JsonObject, asked["certificateHashData"]), cast(list[str], asked["urls"])
            if asked["source"] == "OCSP":
                answer = await self._of(data, urls[0])
            elif self._lists is not None:
                with contextlib.suppress(ValueError):
                    answer = await self._lists.ask(read_hash_data(data), urls, issuers)
            told.append(status_of(asked, answer, self._wall_us()))
        return {"certificateStatus": told}

    async def revoked(self, asked: AuthorizeRequest, roots: Collection[x509.Certificate]) -> bool:
        """Whether a responder, or its issuer's list, says so of any certificate of a contract that was shown (C07).
        Where nobody can be asked, the owner's list decides alone."""
        found = ids_of_chain(asked["certificate"], tuple(roots)) if "certificate" in asked else []
        for data in cast(list[Mapping[str, Json]], asked.get("iso15118CertificateHashData", [])):
            try:
                found.append((read_hash_data(data), str(data["responderURL"])))
            except ValueError:
                continue
        questions = [self.ask(cert_id, url) for cert_id, url in found]
        if self._lists is not None and "certificate" in asked:
            listed = lists_of_chain(asked["certificate"], tuple(roots))
            questions += [self._lists.ask(cert_id, [url], [issuer]) for cert_id, url, issuer in listed]
        answers = await asyncio.gather(*questions)
        return any(answer is not None and answer.word is Word.REVOKED for answer in answers)

    # --- asking

    async def ask(self, cert_id: CertId, url: str) -> Answer | None:
        """What is known of a certificate now, within ANSWER_S; None: nothing."""
        known = self._kept.get(cert_id)
        if known is not None and known.until > self._now():
            return known
        question = cert_id, url
        task = self._under_way.get(question)
        if task is None:
            failed_s = self._failed_s.get(question)
            again = failed_s is None or self._monotonic_s() - failed_s >= AGAIN_S
            if not again or not _allowed(url, self._hosts) or len(self._under_way) >= MOST_UNDER_WAY:
                return None
            task = self._under_way[question] = asyncio.create_task(self._get(cert_id, url))
            task.add_done_callback(lambda _: self._under_way.pop(question, None))
        done, _ = await asyncio.wait([task], timeout=ANSWER_S)
        return task.result() if done and not task.cancelled() else None

    async def _of(self, data: Mapping[str, Json], url: str) -> Answer | None:
        try:
            return await self.ask(read_hash_data(data), url)
        except ValueError:
            return None

    async def _get(self, cert_id: CertId, url: str) -> Answer | None:
        try:
            answer = read_answer(await self._fetch(url, request_for(cert_id)), cert_id, self._now())
        except (OSError, ValueError, TimeoutError) as error:
            _log.info("ocsp_no_answer", host=urlsplit(url).netloc, problem=str(error)[:200])
            self._failed_s[cert_id, url] = self._monotonic_s()
            while len(self._failed_s) > MOST_KEPT:
                self._failed_s.popitem(last=False)
            return None
        self._failed_s.pop((cert_id, url), None)
        self._kept[cert_id] = answer
        self._kept.move_to_end(cert_id)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        try:
            await self._journal.remember(_KEY, self._encode())
        except Exception as error:  # whatever the gateway's store raises: it is asked for again after a restart
            _log.error("ocsp_not_kept", problem=str(error))
        return answer

    def _encode(self) -> bytes:
        return orjson.dumps(
            [
                [
                    each.algorithm,
                    each.issuer_name_hash.hex(),
                    each.issuer_key_hash.hex(),
                    f"{each.serial:x}",
                    base64.b64encode(answer.der).decode(),
                ]
                for each, answer in self._kept.items()
            ]
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_us() / 1e6, UTC)


def _allowed(url: str, hosts: Collection[str]) -> bool:
    """Only where the owner said so, by the plain protocol."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        return False
    return (host if port is None else f"{host}:{port}") in hosts
