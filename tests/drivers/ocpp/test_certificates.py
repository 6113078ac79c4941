"""When a charger is asked to renew its certificate."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from drivers.ocpp.certificates import ASK_AGAIN_US, RENEW_BEFORE_US, Certificates, Issued
from drivers.ocpp.errors import CallRefusedError
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject

NOW_US = 1_767_225_600_000_000


class Authority:
    async def issue(self, csr_pem: str, *, charger_urn: str, names: Collection[str]) -> Issued:
        raise AssertionError("nothing was asked for")


class Bench:
    def __init__(self, answer: str = "Accepted") -> None:
        self.now_us = NOW_US
        self.answer = answer
        self.asked: list[tuple[str, JsonObject]] = []
        self.said: list[str] = []
        self.certificates = Certificates(
            self,
            "CP",
            names=lambda: ["CP"],
            wall_us=lambda: self.now_us,
            on_issued=self.issued,
            say=lambda _, text: self.said.append(text),
        )
        self.certificates.authority = Authority()

    async def issued(self, issued: Issued) -> None:
        raise AssertionError("nothing was issued")

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        self.asked.append((action, payload))
        if self.answer == "error":
            raise CallRefusedError("no", code="NotImplemented")
        return {"status": self.answer}


@pytest.mark.parametrize(
    ("left_us", "asked"), [(RENEW_BEFORE_US + 1, 0), (RENEW_BEFORE_US, 1), (-1, 1)], ids=["early", "in time", "over"]
)
async def test_a_certificate_is_renewed_a_month_before_its_end(left_us: int, asked: int) -> None:
    bench = Bench()
    await bench.certificates.renew_in_time(NOW_US + left_us)
    assert bench.asked == [("TriggerMessage", {"requestedMessage": "SignChargingStationCertificate"})] * asked


async def test_a_charger_without_a_certificate_of_ours_is_not_asked() -> None:
    bench = Bench()
    await bench.certificates.renew_in_time(None)
    bench.certificates.authority = None
    await bench.certificates.renew_in_time(NOW_US)
    assert bench.asked == []


async def test_a_charger_that_does_not_renew_is_asked_once_a_day() -> None:
    bench = Bench()
    for later_us in (0, 1, ASK_AGAIN_US - 1, ASK_AGAIN_US):
        bench.now_us = NOW_US + later_us
        await bench.certificates.renew_in_time(NOW_US)
    assert len(bench.asked) == 2


@pytest.mark.parametrize("answer", ["Rejected", "NotImplemented", "error"])
async def test_a_charger_that_cannot_be_asked_is_told_to_people(answer: str) -> None:
    bench = Bench(answer)
    await bench.certificates.renew_in_time(NOW_US)
    assert len(bench.said) == 1
    assert "ends soon" in bench.said[0]
