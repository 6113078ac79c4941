"""What a gateway publishes for verifiers: all of it signed, none of it measured, and there again after a restart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agent.evidence.statements import Sealing
from agent.evidence.verify import TrustedKey, Verifier
from agent.identity.history import IdentityState, encode_history
from agent.identity.locations import ACKNOWLEDGEMENT, CONTENT_TYPES, DOCUMENT, HISTORY, NEWEST_BATCH, TRUST_LIST
from agent.roads.publishing import Publication
from agent.store import Store
from hil_tests.identity_cases import rotated
from hil_tests.roads_parts import HandClock
from hil_tests.test_roads_thinning import GATEWAY, SIGNER, Box

ENTRIES, STATE = rotated()
URL = "https://gw.example"


@dataclass
class Known:
    """Who the gateway is, and what others signed for it."""

    state: IdentityState | None = None
    acknowledgement: bytes = b""
    trust_list: bytes = b""

    def encoded_history(self) -> bytes:
        return b"" if self.state is None else encode_history(ENTRIES)

    async def publication(self, store: Store) -> Publication:
        made = Publication(
            store,
            self,
            public_url=URL,
            gateway_id=lambda: GATEWAY,
            acknowledgement=lambda: self.acknowledgement,
            trust_list=lambda: self.trust_list,
        )
        await made.restore()
        return made


async def test_of_the_newest_batch_nothing_is_shown_but_when_it_was_sealed(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        box = Box(store, HandClock())
        await box.measure(range(2))
        published = await Known().publication(store)
        shown = published.file(NEWEST_BATCH)
        assert shown is not None
        batch = Verifier([TrustedKey(GATEWAY, SIGNER.verify_key)]).verify_batch(shown)
        assert batch.identity.number == 2
        assert [type(each.statement) for each in batch.statements] == [Sealing]
        assert batch.absent == batch.identity.leaf_count - 1
        assert published.file(NEWEST_BATCH) is shown, "made once for a batch, and not for each who asks"


async def test_a_new_gateway_has_nothing_to_show_and_an_unknown_name_is_none(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        published = await Known().publication(store)
        assert {name: published.file(name) for name in CONTENT_TYPES if name != DOCUMENT} == dict.fromkeys(
            (HISTORY, NEWEST_BATCH, ACKNOWLEDGEMENT, TRUST_LIST)
        )
        assert published.file("../evidence.db") is None


async def test_what_the_platform_signed_last_is_there_after_a_restart(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        await Box(store, HandClock()).measure(range(1))
        first = Known(acknowledgement=b"signed one")
        published = await first.publication(store)
        await published.note()
        first.acknowledgement = b"signed two"
        assert published.file(ACKNOWLEDGEMENT) == b"signed two"
        await published.note()
    async with await Store.open(tmp_path) as store:
        published = await Known().publication(store)
        assert published.file(ACKNOWLEDGEMENT) == b"signed two"
        assert published.file(NEWEST_BATCH) is not None


async def test_history_and_document_are_those_of_the_name_and_say_where_they_are(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        known = Known(STATE, trust_list=b"signed list")
        published = await known.publication(store)
        assert published.file(HISTORY) == encode_history(ENTRIES)
        assert published.file(TRUST_LIST) == b"signed list"
        document = json.loads(published.file(DOCUMENT) or b"")
        assert document["id"] == STATE.gateway_id
        assert [service["serviceEndpoint"] for service in document["service"]] == [URL]
        known.state = None
        assert json.loads(published.file(DOCUMENT) or b"")["id"] == GATEWAY
