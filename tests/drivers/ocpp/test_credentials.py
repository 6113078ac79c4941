"""Credentials: who gets in (security profile 1)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.credentials import Claim, KeptPassword, Passwords, proves, read_claim


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/CP-1", "/ocpp/CP-1", "/ocpp/CP-1/", "/ocpp/CP%2D1?x=y"])
def test_the_identity_is_the_last_part_of_the_path(path: str) -> None:
    assert read_claim(path, None).charger_id == "CP-1"


@pytest.mark.parametrize("path", ["/", "", "/" + "x" * 49, "/a%00b", "/%ff"])
def test_a_path_without_a_usable_identity_names_nobody(path: str) -> None:
    assert read_claim(path, None).charger_id == ""


def test_the_right_user_and_password_prove_the_identity() -> None:
    assert proves(read_claim("/CP-1", basic("CP-1", "pass:word")), ["old", "pass:word"])


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
    assert not proves(read_claim("/CP-1", header), ["secret"])


@pytest.mark.parametrize("password", [None, "", "no charger has this password, it only takes the time of a comparison"])
def test_without_a_password_to_compare_nobody_proves_anything(password: str | None) -> None:
    assert not proves(Claim("CP-9", "CP-9", password), [])


class Keeper:
    """Keeps one password in memory, or fails."""

    def __init__(self) -> None:
        self.kept: KeptPassword | None = None
        self.broken = False

    async def read(self, charger_id: str) -> KeptPassword | None:
        return self.kept

    async def keep(self, charger_id: str, kept: KeptPassword) -> None:
        if self.broken:
            raise OSError("disk full")
        self.kept = kept

    async def hand_over(self, charger_id: str, password: str) -> tuple[str, str]:
        return password, "file:/nowhere"


async def test_the_old_password_is_good_until_the_charger_came_with_the_new() -> None:
    keeper = Keeper()
    passwords = Passwords("CP-1", "old", keeper)
    await passwords.recall()
    await passwords.offer("new")
    assert passwords.good() == ("old", "new")
    assert not await passwords.came_with("old")
    assert await passwords.came_with("new")
    assert passwords.good() == ("new",)
    again = Passwords("CP-1", "old", keeper)
    await again.recall()
    assert again.good() == ("new",)
    await again.offer("newer")
    assert not await again.came_with("new")
    assert again.good() == ("new", "newer")
    assert await again.came_with("newer")
    assert again.good() == ("newer",)


async def test_a_refused_password_is_good_no_more() -> None:
    passwords = Passwords("CP-1", "old", Keeper())
    await passwords.offer("new")
    await passwords.withdraw("new")
    assert passwords.good() == ("old",)


async def test_passwords_that_a_silent_charger_may_have_taken_are_bounded() -> None:
    passwords = Passwords("CP-1", "old", Keeper())
    for number in range(10):
        await passwords.offer(f"new-{number}")
    assert passwords.good() == ("old", "new-8", "new-9")


async def test_a_password_that_cannot_be_kept_is_not_good() -> None:
    keeper = Keeper()
    keeper.broken = True
    passwords = Passwords("CP-1", "old", keeper)
    with pytest.raises(OSError, match="full"):
        await passwords.offer("new")
    assert passwords.good() == ("old",)


async def test_another_password_in_the_configuration_counts_again() -> None:
    keeper = Keeper()
    passwords = Passwords("CP-1", "old", keeper)
    await passwords.offer("new")
    await passwords.came_with("new")
    again = Passwords("CP-1", "written anew", keeper)
    await again.recall()
    assert again.good() == ("written anew",)


async def test_a_charger_that_got_a_password_is_open_no_more() -> None:
    passwords = Passwords("CP-1", None, Keeper())
    assert passwords.open
    await passwords.offer("new")
    assert passwords.open
    await passwords.came_with("new")
    assert not passwords.open


def test_a_kept_password_is_not_printed() -> None:
    assert "secret" not in repr(KeptPassword(passwords=("secret",)))


@given(st.text(), st.none() | st.text())
def test_no_request_raises(path: str, header: str | None) -> None:
    proves(read_claim(path, header), ["secret"])
