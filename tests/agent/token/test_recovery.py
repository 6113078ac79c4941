"""The ladder: where it begins, that it ends, and the waits between climbs."""

from __future__ import annotations

import pkcs11.exceptions as p11
import pytest
from cryptography.exceptions import InvalidSignature

from agent.token.errors import KeyMissingError
from agent.token.recovery import FIRST_WAIT_S, LONGEST_WAIT_S, Rung, next_rung, wait_after


@pytest.mark.parametrize(
    ("error", "rung"),
    [
        (p11.ObjectHandleInvalid(), Rung.FIND_KEY),
        (p11.KeyHandleInvalid(), Rung.FIND_KEY),
        (InvalidSignature(), Rung.FIND_KEY),
        (p11.SessionHandleInvalid(), Rung.REOPEN_SESSION),
        (p11.UserNotLoggedIn(), Rung.REOPEN_SESSION),
        (KeyMissingError(), Rung.REOPEN_SESSION),
        (p11.GeneralError(), Rung.REINITIALISE),
        (p11.DeviceRemoved(), Rung.REINITIALISE),
        (p11.PKCS11Error("Unmapped error code 0x80000001"), Rung.REINITIALISE),
    ],
)
def test_the_climb_begins_where_the_error_points(error: Exception, rung: Rung) -> None:
    assert next_rung(error, None) is rung


@pytest.mark.parametrize("error", [p11.ObjectHandleInvalid(), p11.SessionHandleInvalid(), p11.GeneralError()])
def test_no_rung_is_tried_twice_and_the_ladder_ends(error: Exception) -> None:
    tried: list[Rung] = []
    rung = next_rung(error, None)
    while rung is not None:
        assert rung not in tried
        tried.append(rung)
        rung = next_rung(error, rung)
    assert tried[-1] is Rung.REINITIALISE


def test_a_worse_error_on_the_way_jumps_rungs() -> None:
    assert next_rung(p11.GeneralError(), Rung.FIND_KEY) is Rung.REINITIALISE


def test_a_milder_error_on_the_way_does_not_lead_back_down() -> None:
    assert next_rung(p11.ObjectHandleInvalid(), Rung.REOPEN_SESSION) is Rung.REINITIALISE


def test_waits_grow_and_stay_bounded() -> None:
    waits = [wait_after(failures) for failures in range(1, 50)]
    assert waits[0] == FIRST_WAIT_S
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT_S
    assert wait_after(10**9) == LONGEST_WAIT_S
