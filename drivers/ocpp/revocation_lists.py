"""Fetches lists of revoked certificates from where the owner allows it, and keeps them until they end.

OCPP 2.1 part 2, M07 (GetCertificateChainStatus with source CRL) and C07. They are kept in memory alone: after a restart
they are fetched again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime
from typing import Final, TypeVar
from urllib.parse import urlsplit

import structlog
from cryptography import x509

from drivers.ocpp.crl import RevokedList
from drivers.ocpp.ocsp import Answer, CertId

FetchList = Callable[[str], Awaitable[bytes]]
"""GETs a URL; the response's body, of a bounded size. Raises OSError or ValueError."""

MOST_KEPT: Final = 8
"""Lists: up to a megabyte each, and as much again for their serial numbers."""
MOST_UNDER_WAY: Final = 2
ANSWER_S: Final = 3.0
"""A charger waits so long, however many places it names; a list is fetched to its end, for the next question."""
AGAIN_S: Final = 60.0
"""Before a place that had no list is asked for it again."""

_T = TypeVar("_T")
_log = structlog.get_logger()


class RevocationLists:
    """For all chargers of a site. `allowed`: whether a URL may be fetched."""

    def __init__(
        self,
        fetch: FetchList,
        allowed: Callable[[str], bool],
        *,
        now: Callable[[], datetime],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._fetch = fetch
        self._allowed = allowed
        self._now = now
        self._monotonic_s = monotonic_s
        self._kept: OrderedDict[str, RevokedList] = OrderedDict()
        self._fetched_s: OrderedDict[str, float] = OrderedDict()
        self._failed_s: OrderedDict[str, float] = OrderedDict()
        self._under_way: dict[str, asyncio.Task[RevokedList | None]] = {}

    async def ask(self, cert_id: CertId, urls: Collection[str], issuers: Iterable[x509.Certificate]) -> Answer | None:
        """What the first list that can be had says of a certificate, within ANSWER_S; None: nothing that counts."""
        known, places = tuple(issuers), [url for url in urls if self._allowed(url)]
        until_s = self._monotonic_s() + ANSWER_S
        for number, url in enumerate(places):
            # One that says nothing leaves time for those after it.
            revoked = await self._list(url, (until_s - self._monotonic_s()) / (len(places) - number))
            if revoked is None:
                continue
            if not revoked.is_of_issuer(cert_id):
                self._doubt(url)
                continue
            try:
                return revoked.of(cert_id, known)
            except ValueError as error:
                _log.info("crl_not_usable", host=urlsplit(url).netloc, problem=str(error)[:200])
                self._kept.pop(url, None)  # perhaps somebody on the way: the next one may be right
                _put(self._failed_s, url, self._monotonic_s())
        return None

    def _doubt(self, url: str) -> None:
        """Of a list that is not of the issuer who was asked about: the question is wrong, or the list is. So nobody's
        question takes a good list from the others, and a wrong one is fetched anew in a while."""
        if self._monotonic_s() - self._fetched_s.get(url, 0.0) >= AGAIN_S:
            self._kept.pop(url, None)

    async def _list(self, url: str, patience_s: float) -> RevokedList | None:
        kept = self._kept.get(url)
        if kept is not None and kept.until > self._now():
            return kept
        task = self._under_way.get(url)
        if task is None:
            failed_s = self._failed_s.get(url)
            again = failed_s is None or self._monotonic_s() - failed_s >= AGAIN_S
            if not again or len(self._under_way) >= MOST_UNDER_WAY:
                return None
            task = self._under_way[url] = asyncio.create_task(self._get(url))
            task.add_done_callback(lambda _: self._under_way.pop(url, None))
        done, _ = await asyncio.wait([task], timeout=patience_s)
        return task.result() if done and not task.cancelled() else None

    async def _get(self, url: str) -> RevokedList | None:
        try:
            revoked = RevokedList(await self._fetch(url), self._now())
        except (OSError, ValueError, TimeoutError) as error:
            _log.info("crl_not_had", host=urlsplit(url).netloc, problem=str(error)[:200])
            _put(self._failed_s, url, self._monotonic_s())
            return None
        self._failed_s.pop(url, None)
        _put(self._kept, url, revoked)
        _put(self._fetched_s, url, self._monotonic_s())
        return revoked


def _put(kept: OrderedDict[str, _T], url: str, value: _T) -> None:
    kept[url] = value
    kept.move_to_end(url)
    while len(kept) > MOST_KEPT:
        kept.popitem(last=False)
