"""The meter of a charger signs: through the real agent its values are verified, a flipped digit is wrong and alarmed.

The meter has a key of its own (brainpool, by its own hand); the agent knows it from meter_key_file alone. The charger
sends signatures only when it is told to, so these tests also say that it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from hil_tests.gateway_parts import GatewaySite, gateway_site, needs_softhsm, until

pytestmark = [needs_softhsm, pytest.mark.asyncio(loop_scope="module")]
CHARGER = "charger-1"
Found = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewaySite]:
    async with gateway_site(tmp_path_factory.mktemp("signed")) as made:
        await made.stage.start_all()
        await made.well()
        yield made


async def signed_values(site: GatewaySite) -> Found:
    """What `verify` says of the agent's evidence so far, which holds as a whole."""
    bundle = await site.stage.export()
    found = await site.stage.run("verify", str(bundle), "--gateway", site.stage.gateway_id)
    assert found["ok"], found
    signed = found["signed_values"]
    assert isinstance(signed, dict)
    return signed


async def shows(site: GatewaySite, wanted: Callable[[Found], bool], what: str) -> Found:
    """The first evidence that has what is wanted."""
    seen: list[Found] = []

    async def look() -> bool:
        seen[:] = [await signed_values(site)]
        return wanted(seen[0])

    await until(look, what)
    return seen[0]


def fingerprint(public_key_file: Path) -> str:
    key = load_pem_public_key(public_key_file.read_bytes())
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


async def test_what_the_meter_signs_is_verified_and_its_readings_count_as_signed(site: GatewaySite) -> None:
    found = await shows(site, lambda signed: signed["signed_readings"] >= 3, "readings that the meter signed")
    assert (found["wrong"], found["unverifiable"], found["absent"]) == (0, 0, 0)
    assert found["verified"] >= found["signed_readings"]
    assert found["meter_keys"] == {CHARGER: [fingerprint(site.stage.folder / f"{CHARGER}.meter.pem")]}


async def test_a_flipped_digit_is_wrong_and_alarmed_and_charging_goes_on(site: GatewaySite) -> None:
    before = await signed_values(site)
    sequences = await site.newest_sequences()
    await site.order_site(do="spoil_signatures", device=CHARGER)
    try:
        await site.told("alarm", code="charger.signed_value_wrong", subject=CHARGER)
        found = await shows(site, lambda signed: signed["wrong"] >= 2, "wrong values in the evidence")
        await site.grows(CHARGER, beyond=sequences)
        assert abs(await site.power_w(CHARGER)) > 1_000, "the car is charged no more"
    finally:
        await site.order_site(do="spoil_signatures", device=CHARGER, on=False)
    more = found["signed_readings"] + 2
    after = await shows(site, lambda signed: signed["signed_readings"] >= more, "signed readings again")
    assert after["verified"] > before["verified"]
    assert after["meter_keys"] == before["meter_keys"]


async def test_signed_begin_and_end_tell_the_energy_of_a_transaction(site: GatewaySite) -> None:
    await site.order_site(do="unplug", device=CHARGER)
    first = (await site.truth())["devices"][CHARGER]
    await site.order_site(do="plug", device=CHARGER)

    async def has_charged() -> bool:
        now = (await site.truth())["devices"][CHARGER]
        return bool(now["import_milliwatt_hours"] > first["import_milliwatt_hours"] + 1_000)

    await until(has_charged, "a watt-hour in another transaction")
    transaction = (await site.truth())["devices"][CHARGER]["transaction"]
    await site.order_site(do="unplug", device=CHARGER)
    last = (await site.truth())["devices"][CHARGER]
    found = await shows(
        site,
        lambda signed: any(session["transaction_id"] == transaction for session in signed["sessions"]),
        "the session with its signed begin and end",
    )
    session = next(session for session in found["sessions"] if session["transaction_id"] == transaction)
    assert session["device_id"] == CHARGER
    for register in ("import_milliwatt_hours", "export_milliwatt_hours"):
        assert session[register] == last[register] - first[register]
    await site.order_site(do="plug", device=CHARGER)
