"""The cases behind proto/vectors/identity/documents.json and copies.json: what a history says, and which of several."""

from __future__ import annotations

import json
from collections.abc import Iterator

from agent.identity import history
from agent.identity.did import did_of
from agent.identity.document import device_document, gateway_document, practice_document
from hil_tests import identity_cases, recovery_cases
from hil_tests.evidence_cases import FILES_KEY, Json
from hil_tests.identity_cases import HistoryCase


def documents() -> Iterator[Json]:
    """Of each history that holds: the gateway's document and those of its devices."""
    good = [case for case in identity_cases.cases() if case.state is not None]
    twice = [each for each in recovery_cases.cases() if each.state and each.state.epochs[-1].countersigner is not None]
    for number, case in enumerate([*good, *twice[:1]]):
        assert case.state is not None
        url = "https://gw.example/copies" if number % 2 else None
        devices: dict[str, Json] = {
            device.device_id: _plain(device_document(case.state, device.device_id))
            for device in case.state.subject.devices
        }
        yield {
            "name": case.name,
            "history": history.encode_history(case.entries).hex(),
            "public_url": url,
            "gateway": _plain(gateway_document(case.state, url)),
            "devices": devices,
        }
    name = did_of(FILES_KEY.public_key_der)
    yield {"name": "named by its key", "did": name, "gateway": _plain(practice_document(name))}


def _plain(document: object) -> Json:
    made: Json = json.loads(json.dumps(document))
    return made


def copies() -> Iterator[Json]:
    """Histories that were had from several places, and the number of the one that counts; null: none does."""
    found = {case.name: case for case in identity_cases.cases() if case.state is not None}
    created, rotated = found["created"], found["rotated to another algorithm of the same curve"]
    twice, sold = found["rotated twice, to Ed25519"], found["another owner: signed by all three"]
    bad = HistoryCase("bad", encoded=b"\x80")
    broken = next(case for case in identity_cases.cases() if case.state is None and len(case.entries) > 1)
    assert created.state is not None
    for name, given, counts in (
        ("one", [rotated], 0),
        ("the longest counts", [created, twice, rotated], 1),
        ("all the same", [rotated, rotated], 0),
        ("two that go on in two ways", [twice, sold], None),
        ("two ways, and the beginning of both", [rotated, twice, sold], None),
        ("one that is no history", [bad, rotated], 1),
        ("one that does not verify is longer", [broken, created], 1),
        ("none that verifies", [bad, broken], None),
    ):
        yield {
            "name": name,
            "gateway_id": created.state.gateway_id,
            "histories": [
                (case.encoded if case.encoded is not None else history.encode_history(case.entries)).hex()
                for case in given
            ],
            "counts": counts,
        }
