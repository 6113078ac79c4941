"""A proof file leads from a reading to its window's signed root, and nothing else passes for one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence import batch, cbor, merkle, statements
from agent.evidence.errors import EvidenceError, MalformedError, ProofError
from agent.evidence.proof import ChannelPart, Path, ProofFile, Proven, WindowPart, decode_proof, path_in, verify_proof
from agent.evidence.statements import SettlementWindow
from agent.measure.reading import Quality
from hil_tests import evidence_cases as made
from tests.agent.evidence import vectors

READINGS = [statements.encode(made.reading(n)) for n in range(1, 6)]
WINDOW = SettlementWindow(
    device_id="battery-1", incarnation=1, window_start_us=made.START_US, window_end_us=made.START_US + 900_000_000,
    revision=0, import_wh=0, export_wh=5, net_energy_wh=-5, first_sequence=1, last_sequence=5, reading_count=5,
    readings_root=merkle.root([merkle.leaf_hash(leaf) for leaf in READINGS]), meter_epoch=1, quality=Quality.GOOD,
    command_hashes=(),
)  # fmt: skip


def proven(*leaves: bytes, at: int = 1, number: int = 1) -> Proven:
    sealed = made.make_batch([statements.encode(made.sealing()), *leaves], number=number)
    return Proven(sealed.leaves[at], batch.receipt(sealed, at))


def proof(window: SettlementWindow | None = WINDOW, *, index: int = 2, path: Path | None = None) -> ProofFile:
    part = None
    if window is not None:
        part = WindowPart(proven(statements.encode(window)), path or path_in(READINGS, index))
    return ProofFile(made.GATEWAY, (), proven(*READINGS, at=index + 1), part, None)


def test_a_reading_in_its_window_is_proven_and_the_file_is_read_as_it_was_written() -> None:
    for each in (proof(), proof(None), replace(proof(), channel=ChannelPart(b"s", path_in([b"w"], 0), b"k"))):
        assert decode_proof(each.encode()) == each
    found = verify_proof(proof(), vectors.verifier())
    assert found.reading.statement == made.reading(3)
    assert found.window is not None
    assert found.window.statement == WINDOW
    assert verify_proof(proof(None), vectors.verifier()).window is None


@pytest.mark.parametrize(
    "wrong",
    [
        proof(replace(WINDOW, readings_root=bytes(32))),
        proof(replace(WINDOW, device_id="battery-2")),
        proof(replace(WINDOW, first_sequence=4)),
        proof(replace(WINDOW, first_sequence=None, last_sequence=None)),
        proof(replace(WINDOW, reading_count=6)),
        proof(path=path_in(READINGS, 1)),
        proof(path=Path(6, 2, path_in(READINGS, 2).siblings)),
        replace(proof(), gateway_id=made.OTHER_GATEWAY),
        replace(proof(), window=WindowPart(proven(*READINGS), path_in(READINGS, 2))),
        replace(proof(), reading=proven(statements.encode(WINDOW))),
    ],
    ids=["root", "device", "sequence", "no sequences", "count", "path", "size", "gateway", "no window", "no reading"],
)
def test_what_does_not_lead_to_the_signed_root_is_refused(wrong: ProofFile) -> None:
    with pytest.raises(ProofError):
        verify_proof(wrong, vectors.verifier())


def test_a_channel_state_without_its_window_is_refused() -> None:
    without = replace(proof(None), channel=ChannelPart(b"s", path_in([b"w"], 0), b"k"))
    with pytest.raises(MalformedError, match="without the window"):
        decode_proof(without.encode())


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("value", [None, 1, "x", [], [b""], [b"", b"", 1]])
def test_a_field_of_another_type_is_refused(place: int, value: cbor.Value) -> None:
    fields = cbor.decode(proof().encode(), what="test")
    assert isinstance(fields, list)
    fields[place] = value
    if (place, value) in ((1, 1), (6, None), (5, None), (2, "x"), (3, [b""]), (3, [])):
        return  # as good as what was there, to be judged by who verifies
    with pytest.raises(MalformedError):
        decode_proof(cbor.encode(fields))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(EvidenceError):
        decode_proof(content)
