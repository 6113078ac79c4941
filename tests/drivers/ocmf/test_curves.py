"""Arithmetic on the curves that no library has, against the `ecdsa` package, where it is easiest to go wrong."""

from __future__ import annotations

import hashlib

import ecdsa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocmf.curves import CURVES, curve_named
from tests.drivers.ocmf import meters

OWN = ("secp192k1", "secp192r1")


def public(curve: str, secret: int) -> tuple[ecdsa.SigningKey, tuple[int, int]]:
    key = ecdsa.SigningKey.from_secret_exponent(secret, meters.CURVES[curve])
    point = key.verifying_key.pubkey.point
    return key, (int(point.x()), int(point.y()))


@given(st.sampled_from(OWN), st.one_of(st.integers(1, 3), st.integers(-3, -1), st.integers(1, 2**190)), st.binary())
def test_signatures_of_another_library_verify_and_changed_ones_do_not(curve: str, near: int, message: bytes) -> None:
    """Secrets near 0 and the order: the key is the base point, its double, its opposite."""
    ours, order = CURVES[curve], meters.CURVES[curve].order
    key, point = public(curve, near % order)
    digest = hashlib.sha256(message).digest()
    r, s = key.sign_digest_deterministic(
        digest, hashfunc=hashlib.sha256, sigencode=lambda r, s, _: (int(r), int(s)), allow_truncate=True
    )
    assert ours.contains(point)
    assert ours.verifies(point, digest, "sha256", r, s)
    assert ours.verifies(point, digest, "sha256", r, order - s)
    assert not ours.verifies(point, hashlib.sha256(message + b"x").digest(), "sha256", r, s)
    assert not ours.verifies(point, digest, "sha256", (r + 1) % order, s)
    assert not ours.verifies(point, digest, "sha256", s, r)


@pytest.mark.parametrize("curve", CURVES)
def test_r_and_s_outside_their_range_never_verify(curve: str) -> None:
    ours, order = CURVES[curve], meters.CURVES[curve].order
    key, point = public(curve, 5)
    digest = hashlib.sha256(b"").digest()
    r, s = key.sign_digest_deterministic(
        digest, hashfunc=hashlib.sha256, sigencode=lambda r, s, _: (int(r), int(s)), allow_truncate=True
    )
    assert ours.verifies(point, digest, "sha256", r, s)
    for wrong in ((0, s), (r, 0), (0, 0), (r + order, s), (r, s + order), (-r, s), (r, -s), (order, order)):
        assert not ours.verifies(point, digest, "sha256", *wrong), wrong


@pytest.mark.parametrize("curve", CURVES)
def test_a_point_beside_the_curve_is_not_on_it(curve: str) -> None:
    ours = CURVES[curve]
    _, (x, y) = public(curve, 7)
    assert ours.contains((x, y))
    for wrong in ((x, y + 1), (x + 1, y), (0, 0), (y, x)):
        assert not ours.contains(wrong)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("secp256r1", "secp256r1"),
        ("SECP256R1", "secp256r1"),
        ("prime256v1", "secp256r1"),
        ("brainpool256r1", "brainpool256r1"),
        ("brainpoolP384r1", "brainpool384r1"),
        ("BrainpoolP512R1", "brainpool512r1"),
    ],
)
def test_a_curve_has_many_spellings(spelling: str, name: str) -> None:
    assert curve_named(spelling) is CURVES[name]
    assert curve_named(spelling + "x") is None
