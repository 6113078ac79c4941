"""The bench `ocpp`: its event is one as specified with eight values, and its figures have their names."""

from __future__ import annotations

import orjson

from drivers.ocpp.schemas import Direction, Version, schemas
from hil_tests.bench import ocpp
from hil_tests.bench._ocpp_frames import transaction_event


def test_the_event_is_as_specified_and_has_eight_values() -> None:
    _, _, action, payload = orjson.loads(transaction_event(7, "T1"))
    for version in Version:
        assert schemas(version).violation(action, Direction.REQUEST, payload) is None
    (meter_value,) = payload["meterValue"]
    assert len(meter_value["sampledValue"]) == 8


def test_a_small_run_has_all_figures_and_loses_no_message() -> None:
    said: list[str] = []
    figures = ocpp.run(said.append, rounds=1, events=50, chargers=4, seconds=2.0, orders=20)
    assert list(figures) == [
        "speedup_vs_ocpp_package",
        "core_share_4_chargers",
        "bytes_per_charger",
        "profile_ms_p99",
    ]
    assert figures["speedup_vs_ocpp_package"] > 0
    assert figures["profile_ms_p99"] > 0
    assert any("20 limits" in text for text in said)
