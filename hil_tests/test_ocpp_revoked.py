"""A charger's certificates are revoked: refused at once and over restarts, until it has a newer one of the site."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from websockets.exceptions import InvalidStatus

from agent.identity.site_ca import SiteCa, make_root
from drivers.ocpp import ChargerSettings
from drivers.ocpp.credentials import charger_urn
from hil_tests.ocpp_raw import TlsSite
from hil_tests.test_ocpp_block_m import Bench, Signer, request

SETTINGS = [
    ChargerSettings(device_id="car-3", charger_id="CP-3", security_profile=3),
    ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1"),
]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    signer = Signer()
    root = x509.load_pem_x509_certificate(await make_root(signer, name="site", now=datetime.now(UTC)))
    ca = SiteCa(signer, root, now=lambda: datetime.now(UTC))
    async with TlsSite(tmp_path, SETTINGS).running() as site:
        site.server.use_authority(ca, ca.root_pem)
        yield Bench(site, signer, ca)


async def issued(bench: Bench) -> Path:
    """A certificate that the charger had before this run."""
    made = await bench.ca.issue(request("CP-3", bench.key), charger_urn=charger_urn("CP-3"), names={"CP-3"})
    return bench.pair(made.chain_pem, "before")


async def refused(site: TlsSite, pair: Path) -> None:
    with pytest.raises(InvalidStatus) as turned_away:
        await site.open("CP-3", None, pair=pair)
    assert turned_away.value.response.status_code == 401


async def test_a_revoked_certificate_is_refused_at_once_and_after_a_restart(bench: Bench) -> None:
    site, pair = bench.site, await issued(bench)
    async with site.charger("CP-3", None, pair=pair) as charger:
        await charger.ready()
        assert (await site.server.reception.order("CP-3", "revoke", {}))["ok"] is True
        await charger.socket.wait_closed()
    await refused(site, pair)
    assert "charger.certificate_revoked" in site.codes()
    assert [knock.why for knock in site.server.entrance.waiting.all()] == ["came with a revoked certificate"]
    assert "revoked" in str(site.server.reception.look("CP-3")["certificate"])

    again = site.make_server()
    again.use_authority(bench.ca, bench.ca.root_pem)
    await again.chargers["CP-3"].recall()
    [before] = x509.load_pem_x509_certificates(pair.read_bytes())
    assert not again.chargers["CP-3"].session.admits(f"{before.serial_number:x}")


async def test_a_newer_certificate_of_the_sites_ca_lets_it_in_again(bench: Bench) -> None:
    site, before = bench.site, await issued(bench)
    async with site.charger("CP-3", None, pair=before) as charger:
        await charger.ready()
        charger.answers["CertificateSigned"] = {"status": "Accepted"}
        # Its connection stands while it is renewed: what it is given counts, and nothing older.
        site.server.chargers["CP-3"].session.revoke_certificates()
        await charger.ask("SignCertificate", {"csr": request("CP-3", bench.key)})
        newer = bench.pair((await charger.hear("CertificateSigned"))["certificateChain"], "newer")
    await refused(site, before)
    async with site.charger("CP-3", None, pair=newer) as charger:
        await charger.ready()


async def test_an_approval_takes_a_revocation_back(bench: Bench) -> None:
    site, pair = bench.site, await issued(bench)
    await site.server.reception.order("CP-3", "revoke", {})
    await refused(site, pair)
    assert (await site.server.reception.order("CP-3", "approve", {}))["status"] == "accepted"
    async with site.charger("CP-3", None, pair=pair) as charger:
        await charger.ready()


async def test_a_charger_with_a_password_is_not_kept_out_by_it_and_that_is_said(bench: Bench) -> None:
    site = bench.site
    told = await site.server.reception.order("CP-1", "revoke", {})
    assert "password" in str(told["note"])
    async with site.charger() as charger:
        await charger.ready()
    with pytest.raises(ValueError, match="no charger"):
        await site.server.reception.order("GHOST", "revoke", {})


async def test_a_revocation_that_cannot_be_kept_counts_and_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, pair = bench.site, await issued(bench)

    async def full(key: str, value: bytes) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(site.journal, "remember", full)
    with pytest.raises(OSError, match="not over a restart"):
        await site.server.reception.order("CP-3", "revoke", {})
    await refused(site, pair)
