"""Vectors of devices' streams hold the platform of the rig and a stranger's verifier to one reading of each message."""

from __future__ import annotations

from typing import Any

import pytest

from hil_tests import evidence_cases as made
from hil_tests.rig.platform.audit import Audit
from hil_tests.rig.platform.enrol import Agreement, Enrolled
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry
from tests.agent.evidence import independent_telemetry, vectors
from tests.agent.evidence.test_vectors import ERRORS, their_verifier


def ours(encoded: bytes) -> tuple[int, int]:
    """Number of the batch and index, as a platform judges what comes on a stream that carries everything."""
    keys = {"evidence": made.GATEWAY_KEY.verify_key}
    enrolled = Enrolled(name="v2g-1", gateway_id=made.GATEWAY, tls_public_key_der=b"", keys=keys, agreement=Agreement())
    audit = Audit(enrolled)
    telemetry = DeviceTelemetry.FromString(encoded)
    verified = audit.check_telemetry(telemetry) if telemetry.sequence else audit.check_carried(telemetry)
    assert verified is not None
    return verified.batch.number, verified.index


@pytest.mark.parametrize("case", vectors.cases("telemetry.json"), ids=vectors.name_of)
def test_telemetry_vector(case: Any) -> None:
    encoded = bytes.fromhex(case["telemetry"])
    if case["valid"]:
        assert ours(encoded) == (case["number"], case["index"])
        assert independent_telemetry.telemetry(encoded, their_verifier()) == case["index"]
        return
    with pytest.raises(ERRORS[case["error"]]):
        ours(encoded)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent_telemetry.telemetry(encoded, their_verifier())
