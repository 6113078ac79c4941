"""`v2g-gateway verify`: what a file proves, and every way in which it may not."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.evidence import QuestionError, VerifyError, verify_file
from agent.cli.signed_values import signed_values_json, signed_values_lines
from agent.clock import ClockQuality
from agent.evidence import batch as batches
from agent.evidence import statements
from agent.evidence.batch import FIRST_PREVIOUS_ROOT, KeyProtection, SealedBatch
from agent.evidence.bundle import BundleHead, encode_batch_item
from agent.evidence.cose import key_id_of
from agent.evidence.errors import EvidenceError, MalformedError, SignatureError
from agent.evidence.statements import Alarm, Sealing, Severity, Statement
from agent.identity.did import did_of
from agent.identity.history import encode_history, replay
from drivers.device import SignatureVerdict
from hil_tests.identity_cases import epoch_cases
from hil_tests.signed_value_cases import METER_KEY, WRONG_VALUE, record, signed_reading, signed_value
from tests.agent.identity.software import SoftwareSigner
from tests.agent.roads.readings import reading

KEY, STRANGER = SoftwareSigner(), SoftwareSigner()
GATEWAY = did_of(KEY.public_key_der)
ALARM = Alarm(timestamp_us=1, severity=Severity.INFO, code="c", subject="pv-1", text="t")


def sealed(
    number: int,
    before: SealedBatch | None,
    *content: Statement,
    key: SoftwareSigner = KEY,
    gateway_id: str = GATEWAY,
    incarnation: int = 1,
) -> SealedBatch:
    sealing = Sealing(sealed_at_us=number * 1_000, clock_quality=ClockQuality.SYNCED, clock_error_bound_us=1)
    unsigned = batches.assemble(
        [statements.encode(s) for s in (sealing, *content)],
        gateway_id=gateway_id,
        incarnation=incarnation,
        boot_id=bytes(16),
        number=number,
        previous_root=FIRST_PREVIOUS_ROOT if before is None else before.root,
        key_protection=KeyProtection.SOFTWARE,
        algorithm=key.algorithm,
        key_id=key_id_of(key.public_key_der),
    )
    return batches.seal(unsigned, key.sign_now(unsigned.to_be_signed))


def chain(count: int) -> list[SealedBatch]:
    made: list[SealedBatch] = []
    for number in range(1, count + 1):
        made.append(sealed(number, made[-1] if made else None, reading(number), ALARM))
    return made


def bundle(run: list[SealedBatch], gateway_id: str = GATEWAY) -> bytes:
    head = BundleHead(gateway_id, (KEY.public_key_der,))
    return head.encode() + b"".join(encode_batch_item(batch.encode()) for batch in run)


CHAIN = chain(3)
GOOD = bundle(CHAIN)


def test_a_good_file_holds_and_says_what_is_in_it() -> None:
    found = verify_file(BytesIO(GOOD), GATEWAY, [])
    assert found.holds
    assert (found.batches, found.statements) == (3, {"alarm": 3, "reading": 3})
    assert (found.first_number, found.last_number, found.first_us, found.last_us) == (1, 3, 1_000, 3_000)


def test_a_file_that_begins_later_in_the_chain_holds() -> None:
    found = verify_file(BytesIO(bundle(CHAIN[1:])), GATEWAY, [])
    assert (found.holds, found.first_number) == (True, 2)


def test_an_empty_bundle_holds_and_proves_nothing() -> None:
    found = verify_file(BytesIO(bundle([])), GATEWAY, [])
    assert (found.holds, found.batches, found.first_number, found.statements) == (True, 0, None, {})


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_no_bit_can_be_flipped_unseen(bit: int) -> None:
    changed = bytearray(GOOD)
    changed[bit // 8] ^= 1 << bit % 8
    head = len(BundleHead(GATEWAY, (KEY.public_key_der,)).encode())
    try:
        found = verify_file(BytesIO(bytes(changed)), GATEWAY, [])
    except (EvidenceError, VerifyError):
        return
    # The keys in the head vouch for nothing; batches that pass for keys are missing at the begin, as if cut off there.
    assert bit // 8 < head
    assert found.last_number == 3


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_a_file_that_was_cut_is_told_unless_it_ends_with_a_whole_batch(length: int) -> None:
    whole = [len(bundle(CHAIN[:count])) for count in range(3)]
    if length in whole:
        assert verify_file(BytesIO(GOOD[:length]), GATEWAY, []).batches == whole.index(length)
    else:
        with pytest.raises(MalformedError):
            verify_file(BytesIO(GOOD[:length]), GATEWAY, [])


def test_a_missing_batch_breaks_the_chain_and_the_place_is_named() -> None:
    found = verify_file(BytesIO(bundle([CHAIN[0], CHAIN[2]])), GATEWAY, [])
    assert not found.holds
    assert found.chain_break is not None
    assert "batch 3 where batch 2 is next" in found.chain_break.why


def test_batches_in_another_order_break_the_chain() -> None:
    assert not verify_file(BytesIO(bundle([CHAIN[0], CHAIN[2], CHAIN[1]])), GATEWAY, []).holds


def test_a_batch_that_follows_another_root_breaks_the_chain() -> None:
    other = sealed(2, sealed(1, None, reading(9)), reading(2))
    found = verify_file(BytesIO(bundle([CHAIN[0], other])), GATEWAY, [])
    assert found.chain_break is not None
    assert "follows root" in found.chain_break.why


def test_a_new_incarnation_begins_at_one_again() -> None:
    assert verify_file(BytesIO(bundle([*CHAIN, sealed(1, None, ALARM, incarnation=2)])), GATEWAY, []).holds
    assert not verify_file(BytesIO(bundle([*CHAIN, sealed(5, CHAIN[0], ALARM, incarnation=2)])), GATEWAY, []).holds


def test_two_contents_under_one_identity_are_a_contradiction() -> None:
    other = sealed(2, CHAIN[0], reading(2), reading(3))
    found = verify_file(BytesIO(bundle([*CHAIN[:2], other])), GATEWAY, [])
    assert not found.holds
    assert any(subject.startswith("batch 2 of incarnation 1") for subject in found.contradictions)


def test_another_gateway_than_the_trusted_one_is_refused() -> None:
    with pytest.raises(VerifyError, match="not about"):
        verify_file(BytesIO(GOOD), did_of(STRANGER.public_key_der), [])


def test_a_stranger_cannot_write_a_file_in_the_gateways_name() -> None:
    with pytest.raises(SignatureError, match="batch 1 of the file"):
        verify_file(BytesIO(bundle([sealed(1, None, ALARM, key=STRANGER)])), GATEWAY, [])


def test_a_batch_of_another_gateway_is_refused_where_it_stands() -> None:
    foreign = sealed(2, CHAIN[0], ALARM, gateway_id="did:key:zAnother")
    with pytest.raises(EvidenceError, match="batch 2 of the file"):
        verify_file(BytesIO(bundle([CHAIN[0], foreign])), GATEWAY, [])


def test_without_a_trusted_key_nothing_is_verified_and_the_way_is_said() -> None:
    with pytest.raises(QuestionError, match="name whom you trust") as refused:
        verify_file(BytesIO(GOOD), None, [])
    assert GATEWAY in str(refused.value)


def test_what_is_no_identifier_of_a_gateway_is_refused() -> None:
    with pytest.raises(QuestionError, match="--gateway"):
        verify_file(BytesIO(GOOD), "did:web:example.org", [])


def test_another_life_of_the_store_is_no_break_and_is_told() -> None:
    after = [*CHAIN, sealed(1, None, ALARM, incarnation=2)]
    found = verify_file(BytesIO(bundle(after)), GATEWAY, [])
    assert found.holds
    assert found.incarnations == (1, 2)
    assert verify_file(BytesIO(GOOD), GATEWAY, []).incarnations == (1,)


def test_a_key_file_alone_speaks_for_no_gateway_but_its_own(tmp_path: Path) -> None:
    """Else one gateway's key would vouch for what a file says of another gateway."""
    key = tmp_path / "key.pem"
    public = load_der_public_key(KEY.public_key_der)
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    other = did_of(STRANGER.public_key_der)
    forged = bundle([sealed(1, None, ALARM, gateway_id=other)], other)
    with pytest.raises(VerifyError, match="--gateway"):
        verify_file(BytesIO(forged), None, [key])
    # Who says that this gateway was enrolled with that key may trust it.
    assert verify_file(BytesIO(forged), other, [key]).holds


def test_a_key_file_is_trusted_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def pem(name: str, key: SoftwareSigner) -> Path:
        content = load_der_public_key(key.public_key_der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert verify_file(BytesIO(GOOD), None, [pem("good.pem", KEY)]).holds
    with pytest.raises(VerifyError, match="none of these keys"):
        verify_file(BytesIO(GOOD), None, [pem("stranger.pem", STRANGER)])
    with pytest.raises(VerifyError, match=r"none\.pem"):
        verify_file(BytesIO(GOOD), None, [tmp_path / "none.pem"])
    (tmp_path / "torn.pem").write_text("torn")
    with pytest.raises(VerifyError, match=r"torn\.pem"):
        verify_file(BytesIO(GOOD), None, [tmp_path / "torn.pem"])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_evidence(content: bytes) -> None:
    with pytest.raises(EvidenceError):
        verify_file(BytesIO(content), GATEWAY, [])


def test_what_meters_signed_is_shown_with_the_keys_to_compare_and_the_energy_of_each_session() -> None:
    begin = signed_value()
    end = signed_value(7_250, record=record(7_250, transaction="E"), context="Transaction.End")
    last = replace(signed_reading(end), sequence=2, import_register_milliwatt_hours=7_250_000)
    run = sealed(1, None, begin, signed_reading(begin), end, last, WRONG_VALUE)
    found = verify_file(BytesIO(bundle([run])), GATEWAY, [])
    assert found.holds
    shown = signed_values_json(found.signed)
    fingerprint = key_id_of(METER_KEY.public_key_der).hex()
    assert (shown["verified"], shown["wrong"], shown["unverifiable"], shown["signed_readings"]) == (2, 1, 0, 2)
    assert shown["meter_keys"] == {"charger-1": [fingerprint]}
    assert shown["sessions"] == [
        {"device_id": "charger-1", "transaction_id": "T-1", "meter_key": fingerprint,
         "import_milliwatt_hours": 2_250_000, "export_milliwatt_hours": None},
    ]  # fmt: skip
    text = "\n".join(signed_values_lines(found.signed))
    assert fingerprint in text
    assert "transaction T-1: import 2.250 kWh" in text


def test_a_gateway_that_says_verified_of_what_is_not_is_found_out() -> None:
    lie = replace(WRONG_VALUE, verdict=SignatureVerdict.VERIFIED)
    found = verify_file(BytesIO(bundle([sealed(1, None, lie)])), GATEWAY, [])
    assert not found.holds
    (claim,) = found.false_claims
    assert "said to be verified" in claim


def test_a_signed_value_that_is_not_in_the_file_is_counted_and_no_fault() -> None:
    found = verify_file(BytesIO(bundle([sealed(1, None, signed_reading(signed_value()))])), GATEWAY, [])
    assert (found.holds, found.signed.absent, found.signed.signed_readings) == (True, 1, 0)


def test_where_no_meter_signs_nothing_is_said_of_it() -> None:
    assert list(signed_values_lines(verify_file(BytesIO(GOOD), GATEWAY, []).signed)) == []


def test_a_gateway_with_a_history_is_verified_by_it_and_by_nothing_less(tmp_path: Path) -> None:
    two = list(epoch_cases())[1]  # the last batch of the first key
    held = tmp_path / "history.cose"
    held.write_bytes(encode_history(two.entries))
    state = replay(two.entries)
    head = BundleHead(state.gateway_id, ())
    content = head.encode() + encode_batch_item(two.batch)
    assert verify_file(BytesIO(content), state.gateway_id, [], held).batches == 1
    with pytest.raises(VerifyError, match="--history FILE"):
        verify_file(BytesIO(content), state.gateway_id, [])
    with pytest.raises(VerifyError, match="not of did:v2g:zOther"):
        verify_file(BytesIO(content), "did:v2g:zOther", [], held)
    with pytest.raises(VerifyError, match="the history is of"):
        verify_file(BytesIO(BundleHead(GATEWAY, ()).encode()), None, [], held)
    with pytest.raises(VerifyError, match="No such file"):
        verify_file(BytesIO(content), None, [], tmp_path / "nowhere")
    held.write_bytes(b"noise")
    with pytest.raises(VerifyError, match="history"):
        verify_file(BytesIO(content), None, [], held)
    late = next(case for case in epoch_cases() if case.name == "the first key after it ended")
    held.write_bytes(encode_history(late.entries))
    with pytest.raises(SignatureError, match="batch 1 of the file"):
        verify_file(BytesIO(head.encode() + encode_batch_item(late.batch)), None, [], held)
