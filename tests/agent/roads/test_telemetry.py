"""Live telemetry of a sealed batch: every reading carries bytes and a receipt that prove it alone."""

from __future__ import annotations

import pytest

from agent.clock import ClockQuality
from agent.evidence import batch as batches
from agent.evidence import statements
from agent.evidence.batch import FIRST_PREVIOUS_ROOT, KeyProtection, SealedBatch
from agent.evidence.cose import key_id_of
from agent.evidence.statements import Alarm, Sealing, Severity, Statement
from agent.evidence.verify import TrustedKey, Verifier
from agent.roads import telemetry
from agent.roads.telemetry import live_telemetry
from tests.agent.identity.software import SoftwareSigner
from tests.agent.roads.readings import reading

KEY = SoftwareSigner()
GATEWAY = "did:key:zExample"
SEALING = Sealing(sealed_at_us=1, clock_quality=ClockQuality.SYNCED, clock_error_bound_us=1)
ALARM = Alarm(timestamp_us=1, severity=Severity.INFO, code="c", subject="pv-1", text="t")


def sealed(*content: Statement) -> SealedBatch:
    unsigned = batches.assemble(
        [statements.encode(s) for s in (SEALING, *content)],
        gateway_id=GATEWAY,
        incarnation=1,
        boot_id=bytes(16),
        number=1,
        previous_root=FIRST_PREVIOUS_ROOT,
        key_protection=KeyProtection.SOFTWARE,
        algorithm=KEY.algorithm,
        key_id=key_id_of(KEY.public_key_der),
    )
    return batches.seal(unsigned, KEY.sign_now(unsigned.to_be_signed))


def test_each_reading_is_provable_alone_and_keeps_its_order() -> None:
    batch = sealed(reading(1), ALARM, reading(1, "grid"), reading(2))
    verifier = Verifier([TrustedKey(GATEWAY, KEY.verify_key)])
    live = list(live_telemetry(batch))
    assert [(device_id, t.sequence) for device_id, t in live] == [("pv-1", 1), ("grid", 1), ("pv-1", 2)]
    for device_id, message in live:
        proven = verifier.verify_receipt(message.signature, message.statement).statement
        assert proven == reading(message.sequence, device_id)


def test_charge_is_rounded_down() -> None:
    [(_, message)] = live_telemetry(sealed(reading(1)))
    assert message.state_of_charge_percent == 55


def test_a_batch_without_readings_shows_nothing() -> None:
    assert list(live_telemetry(sealed(ALARM))) == []


def test_of_a_large_batch_the_newest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MOST_LIVE", 3)
    live = live_telemetry(sealed(*(reading(n) for n in range(1, 11))))
    assert [message.sequence for _, message in live] == [8, 9, 10]
