"""A box from a drawer, where nothing vouches for the time: its certificate is renewed by the EST server's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from agent.clock import Clock
from agent.roads.certificates import CertificateWatch, Watched
from agent.roads.renewal import RETRY_MOST_S, TIME_AFTER_S, Renewal
from hil_tests.rig.est import Answer, Authority, EstService
from hil_tests.test_roads_renewal import Bench, bench, noted, says  # noqa: F401  # a fixture

DRAWER = timedelta(days=200)


class Drawer:
    """`bench` after 200 days without power: its certificate is over, its clock stands where it stood, and knows it."""

    def __init__(self, bench: Bench, *, floor: timedelta = DRAWER) -> None:  # noqa: F811
        self.bench = bench
        self.now = datetime.now(UTC)
        bench.hand.synchronised = False
        bench.hand.wall_us -= round(DRAWER.total_seconds() * 1e6)
        # The CA's clock is right.
        bench.service.now_s = time.time
        floor_us = round((self.now - floor).timestamp() * 1e6)
        state = f'{{"floor_us": {floor_us}, "kernel_boot_id": "", "anchor": null}}'.encode()
        self.clock = Clock(
            restored=state,
            realtime_us=lambda: bench.hand.wall_us,
            monotonic_s=lambda: bench.hand.monotonic_s,
            kernel_error_us=lambda: 1_000 if bench.hand.synchronised else None,
            kernel_boot_id="a boot",
        )
        self.renewal = bench.renewal()
        self.renewal._clock = self.clock

    async def waits(self, seconds: float) -> Renewal:
        """As its task would: look, and sleep."""
        until = self.bench.hand.monotonic_s + seconds
        while self.bench.hand.monotonic_s < until:
            self.bench.hand.advance(max(0.01, await self.renewal.step()))
        return self.renewal

    def installed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.bench.file.read_bytes())[0]


def dated(moment: datetime | None, bench: Bench) -> Answer:  # noqa: F811
    async def answer(request: web.Request) -> web.StreamResponse:
        response = await bench.service.answered(request)
        if moment is None:
            response.headers["Date"] = "no time"
        else:
            response.headers["Date"] = format_datetime(moment, usegmt=True)
        return response

    return answer


async def test_a_certificate_that_ended_in_the_drawer_is_renewed_without_ntp_and_without_the_platform(
    bench: Bench,  # noqa: F811
) -> None:
    before = bench.install(before=290, days=-100)
    bench.refused_by_platform = True  # nobody's fault: by this clock its certificate is not good yet
    drawer = Drawer(bench)
    await drawer.waits(TIME_AFTER_S + 60)
    assert drawer.installed() == bench.service.given[-1] != before
    assert (bench.service.logins, bench.codes) == (["token"], ["certificate.renewed"])


async def test_one_that_is_good_still_is_not_installed_without_a_proof(bench: Bench) -> None:  # noqa: F811
    present = bench.install()
    bench.refused_by_platform = True
    drawer = Drawer(bench)
    renewal = await drawer.waits(TIME_AFTER_S + 60)
    assert "takes the present certificate" in renewal.status.detail
    assert drawer.installed() == present


async def test_one_that_is_not_due_is_left_and_the_time_is_asked_for_a_few_times_a_day(
    bench: Bench,  # noqa: F811
) -> None:
    present = bench.install(before=10, days=80)
    drawer = Drawer(bench)
    heard: list[str] = []

    async def counted(request: web.Request) -> web.StreamResponse:
        heard.append(request.path)
        return await bench.service.answered(request)

    bench.service.before = [counted] * 20
    await drawer.waits(86_400)
    assert drawer.installed() == present
    assert 3 <= len(heard) <= 5
    assert all(path.endswith("/cacerts") for path in heard)


async def test_a_server_that_cannot_be_asked_is_asked_less_and_less(bench: Bench) -> None:  # noqa: F811
    bench.install(before=290, days=-100)
    drawer = Drawer(bench)
    heard: list[str] = []
    bench.service.before = [noted(heard)] * 100
    renewal = await drawer.waits(86_400)
    assert 4 < len(heard) < 20
    assert "cannot be asked for it" in renewal.status.detail
    bench.service.before = []
    await drawer.waits(RETRY_MOST_S + 60)
    assert bench.codes == ["certificate.renewed"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda b: dated(datetime.now(UTC) - DRAWER - timedelta(days=1), b), "this gateway has known"),
        (lambda b: dated(datetime.now(UTC) + timedelta(days=91), b), "the server's certificate is good from"),
        (lambda b: dated(datetime.now(UTC) - timedelta(days=95), b), "the server's certificate is good from"),
        (lambda b: dated(None, b), "does not tell the time"),
        (lambda b: says(b"<html>Welcome</html>", "text/html", 200), "captive portal"),
    ],
    ids=["before what was known", "after its certificate", "before its certificate", "no time", "a portal"],
)  # fmt: skip
async def test_a_time_that_cannot_be_is_not_taken_and_nobody_logs_in(
    bench: Bench, answer: Callable[[Bench], Answer], said: str  # noqa: F811
) -> None:  # fmt: skip
    present = bench.install(before=290, days=-100)
    drawer = Drawer(bench)
    bench.service.before = [answer(bench)] * 2
    renewal = await drawer.waits(TIME_AFTER_S + 10)
    assert said in renewal.status.detail
    assert (bench.service.asked, drawer.installed()) == ([], present)


async def test_a_server_whose_certificate_ended_before_what_was_known_is_not_believed_whatever_it_says(
    bench: Bench, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """Who stole its key after that tells a moment in its life."""
    bench.install(before=290, days=-100)
    late = EstService(bench.ca, root=bench.root.certificate)
    async with late.running(bench.ca.server_context(tmp_path, life=timedelta(days=-1))):
        bench.service.url = late.url
        drawer = Drawer(bench, floor=timedelta(hours=1))
        late.before = [dated(drawer.now - timedelta(days=2), bench)]
        renewal = await drawer.waits(TIME_AFTER_S + 10)
        assert "this gateway has known" in renewal.status.detail
        late.before = [dated(drawer.now, bench)]
        renewal = await drawer.waits(RETRY_MOST_S)
        assert "the server's certificate is good from" in renewal.status.detail
    assert late.asked == []


async def test_an_authority_that_has_ended_cannot_vouch_for_a_time_to_come(
    bench: Bench, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """Who stole its key gives out certificates of any dates: a login for a moment to come would be a login then."""
    bench.install(before=290, days=-100)
    ended = Authority.make("an issuer of before", by=bench.root, life=timedelta(days=-1))
    thief = EstService(bench.ca, root=bench.root.certificate)
    async with thief.running(ended.server_context(tmp_path, life=timedelta(days=3000))):
        bench.service.url = thief.url
        drawer = Drawer(bench)
        for moment in (drawer.now, drawer.now + timedelta(days=1000)):
            thief.before = [dated(moment, bench)]
            renewal = await drawer.waits(RETRY_MOST_S)
            assert "that of CN=an issuer of before above the server's certificate" in renewal.status.detail
    assert thief.asked == []


async def test_between_two_answers_the_servers_certificate_is_judged_by_the_time_that_was_told(
    bench: Bench, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    bench.install(before=290, days=-100)
    late = EstService(bench.ca, root=bench.root.certificate)
    async with late.running(bench.ca.server_context(tmp_path, life=timedelta(days=-1))):
        bench.service.url = late.url
        drawer = Drawer(bench)
        drawer.renewal._server_clock.told = drawer.now
        drawer.renewal._server_clock.told_at_s = bench.hand.monotonic_s
        renewal = await drawer.waits(5)
    assert "the server's certificate is good from" in renewal.status.detail
    assert late.asked == []


async def test_as_soon_as_the_time_is_vouched_for_the_servers_is_forgotten(bench: Bench) -> None:  # noqa: F811
    present = bench.install(before=10, days=80)
    drawer = Drawer(bench)
    bench.service.before = [dated(datetime.now(UTC) + timedelta(days=85), bench)] * 50
    await drawer.waits(TIME_AFTER_S + 10)
    assert drawer.renewal.time_told is not None
    bench.hand.synchronised = True
    bench.hand.wall_us = time.time_ns() // 1000
    await drawer.renewal.step()
    assert [drawer.renewal.time_told, drawer.installed()] == [None, present]


async def test_the_watch_says_that_it_has_ended_by_the_time_that_was_told(bench: Bench) -> None:  # noqa: F811
    bench.install(before=290, days=-100)
    drawer = Drawer(bench)
    bench.service.before = [dated(drawer.now, bench), *[noted([])] * 20]
    watch = CertificateWatch(
        [Watched("uplink", bench.file, None, "install it", renewal=drawer.renewal)],
        enrolment=bench.folder / "enrolment",
        clock=drawer.clock,
        on_alarm=lambda *_: None,
    )
    await drawer.waits(TIME_AFTER_S + 60)
    await watch.look()
    [problem] = watch.problems
    assert "has ended" in problem.sentence
    assert bench.codes == ["certificate.not_renewed"]
