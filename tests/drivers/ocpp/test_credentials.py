"""Credentials: who gets in (security profile 1)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.credentials import Claim, proves, read_claim


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/CP-1", "/ocpp/CP-1", "/ocpp/CP-1/", "/ocpp/CP%2D1?x=y"])
def test_the_identity_is_the_last_part_of_the_path(path: str) -> None:
    assert read_claim(path, None).charger_id == "CP-1"


@pytest.mark.parametrize("path", ["/", "", "/" + "x" * 49, "/a%00b", "/%ff"])
def test_a_path_without_a_usable_identity_names_nobody(path: str) -> None:
    assert read_claim(path, None).charger_id == ""


def test_the_right_user_and_password_prove_the_identity() -> None:
    assert proves(read_claim("/CP-1", basic("CP-1", "pass:word")), True, "pass:word")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        basic("CP-1", "wrong"),
        basic("CP-2", "secret"),
        basic("CP-1", ""),
        "Bearer secret",
    ],
)
def test_anything_else_does_not(header: str | None) -> None:
    assert not proves(read_claim("/CP-1", header), True, "secret")


def test_an_unknown_identity_is_refused_even_where_no_password_is_set() -> None:
    assert not proves(Claim("CP-9", "CP-9", None), False, None)
    assert not proves(
        Claim("CP-9", "CP-9", "no charger has this password, it only takes the time of a comparison"), False, None
    )


def test_a_charger_without_password_is_let_in_by_its_name() -> None:
    assert proves(Claim("CP-1", "", None), True, None)


@given(st.text(), st.none() | st.text())
def test_no_request_raises(path: str, header: str | None) -> None:
    proves(read_claim(path, header), True, "secret")
