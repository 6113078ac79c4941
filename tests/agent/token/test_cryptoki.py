"""Which private keys may be used: only those that were born in the token and cannot leave it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pkcs11
import pytest
from pkcs11 import Attribute, TokenFlag

from agent.token.cryptoki import Cryptoki, Selection, _Pin
from agent.token.custody import fault_of
from agent.token.errors import PinLockedError, PinRefusedError

BORN_HERE: dict[Attribute, bool | None] = {
    Attribute.EXTRACTABLE: False,
    Attribute.NEVER_EXTRACTABLE: True,
    Attribute.SENSITIVE: True,
    Attribute.LOCAL: True,
    Attribute.SIGN: True,
}


def test_a_key_that_was_born_here_and_stays_may_be_used() -> None:
    assert fault_of(BORN_HERE.get) is None


@pytest.mark.parametrize("attribute", BORN_HERE)
def test_one_wrong_attribute_is_enough_to_refuse_a_key(attribute: Attribute) -> None:
    wrong = {**BORN_HERE, attribute: not BORN_HERE[attribute]}
    assert f"CKA_{attribute.name}" in (fault_of(wrong.get) or "")


@pytest.mark.parametrize("attribute", [Attribute.EXTRACTABLE, Attribute.SENSITIVE, Attribute.LOCAL, Attribute.SIGN])
def test_what_a_token_does_not_say_counts_against_the_key(attribute: Attribute) -> None:
    assert fault_of({**BORN_HERE, attribute: None}.get) is not None


def test_a_token_may_leave_out_never_extractable() -> None:
    assert fault_of({**BORN_HERE, Attribute.NEVER_EXTRACTABLE: None}.get) is None


def test_a_pin_stays_out_of_tracebacks_that_show_local_variables() -> None:
    assert "1234" not in f"{_Pin('1234')!r} {[_Pin('1234')]}"
    assert _Pin("1234").encode() == b"1234"


@dataclass
class Slot:
    """A token that tells of itself, and counts how often it is given a PIN."""

    flags: TokenFlag
    label: str = "fake"
    serial: bytes = b"01"
    asked: list[str] = field(default_factory=list)

    def open(self, *, user_pin: str) -> None:
        self.asked.append(user_pin)


@pytest.mark.parametrize(
    ("flag", "refusal"),
    [(TokenFlag.USER_PIN_FINAL_TRY, PinRefusedError), (TokenFlag.USER_PIN_LOCKED, PinLockedError)],
)
def test_the_last_try_of_a_token_is_left_to_a_person(flag: TokenFlag, refusal: type[Exception]) -> None:
    slot = Slot(TokenFlag.TOKEN_INITIALIZED | flag)
    ours = Cryptoki(Selection(module=Path("/nowhere"), label="fake", serial=None), lambda: "1234")
    with pytest.raises(refusal):
        ours._log_in(cast(pkcs11.Token, slot))
    assert slot.asked == []
    slot.flags = TokenFlag.TOKEN_INITIALIZED
    ours._log_in(cast(pkcs11.Token, slot))
    assert len(slot.asked) == 1
