"""The trust list from its file over the real store: never an older one, never a bad one, and a person is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.identity.trust import TrustList, draft_trust_list, prepare_trust_list
from agent.identity.trust_roots import TrustRoots
from agent.roads import trusting as module
from agent.roads.trusting import PIN_NOTE, TrustKeeper
from agent.store import Store, StoreFullError
from hil_tests.roads_parts import START_US, HandClock, running, until
from tests.agent.identity.software import SoftwareSigner

HOUR_US = 3_600_000_000
ROOT = SoftwareSigner()
STRANGER = SoftwareSigner()


def signed(version: int, *, root: SoftwareSigner = ROOT, issued_us: int = START_US - HOUR_US, hours: int = 48) -> bytes:
    content = TrustList(version=version, issued_us=issued_us, expires_us=issued_us + hours * HOUR_US, issuers=())
    unsigned = prepare_trust_list(content, root.verify_key)
    return unsigned.with_signature(root.sign_now(unsigned.to_be_signed))


def write(file: Path, content: bytes) -> None:
    """As whoever fetches the list does."""
    file.write_bytes(content)


def remove(file: Path) -> None:
    """As a clumsy hand does."""
    file.unlink()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trust-list.cose"


@pytest.fixture
def hand() -> HandClock:
    return HandClock()


@pytest.fixture
def keeper(file: Path, store: Store, hand: HandClock) -> TrustKeeper:
    return TrustKeeper(file, ROOT.verify_key, store=store, clock=hand.clock)


async def test_a_list_that_two_of_three_roots_signed_is_taken_and_one_alone_is_not(
    file: Path, store: Store, hand: HandClock
) -> None:
    roots = [SoftwareSigner() for _ in range(3)]
    keeper = TrustKeeper(
        file, TrustRoots(tuple(root.verify_key for root in roots), 2), store=store, clock=hand.clock
    )  # fmt: skip
    content = TrustList(version=1, issued_us=START_US - HOUR_US, expires_us=START_US + HOUR_US, issuers=())
    message = draft_trust_list(content)
    for root, taken in ((roots[2], False), (roots[0], True)):
        message = message.with_signature(root.verify_key, root.sign_now(message.to_be_signed(root.verify_key)))
        write(file, message.encode())
        await keeper.look()
        assert (keeper.current == content) is taken
        assert ("signed by 1 of the 3 roots" in keeper.trouble) is not taken


def version(keeper: TrustKeeper) -> int | None:
    return None if keeper.current is None else keeper.current.version


async def test_a_newer_list_in_the_file_counts_without_a_restart(
    keeper: TrustKeeper, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.001)
    write(file, signed(1))
    async with running(keeper.run()):
        await until(lambda: version(keeper) == 1, "version 1")
        write(file, signed(2))
        await until(lambda: version(keeper) == 2, "version 2")
    assert keeper.trouble == ""


async def test_an_older_list_is_refused_and_the_newer_stays_in_force(keeper: TrustKeeper, file: Path) -> None:
    write(file, signed(7))
    await keeper.look()
    write(file, signed(6))
    await keeper.look()
    assert version(keeper) == 7
    assert "version 6 is older than version 7" in keeper.trouble


async def test_an_older_list_is_refused_after_a_restart_too(
    keeper: TrustKeeper, file: Path, store: Store, hand: HandClock
) -> None:
    write(file, signed(7))
    await keeper.look()
    write(file, signed(6))
    restarted = TrustKeeper(file, ROOT.verify_key, store=store, clock=hand.clock)
    await restarted.look()
    assert version(restarted) is None
    assert "version 6 is older than version 7" in restarted.trouble


async def test_another_content_under_the_version_in_force_is_refused(keeper: TrustKeeper, file: Path) -> None:
    write(file, signed(7))
    await keeper.look()
    write(file, signed(7, hours=72))
    await keeper.look()
    assert keeper.current is not None
    assert keeper.current.expires_us == START_US + 47 * HOUR_US
    assert "two different lists" in keeper.trouble


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (signed(8)[:-1], "64 bytes where 63 are left"),
        (signed(8, root=STRANGER), "another root"),
        (b"", "trust list"),
        (b"\x00" * (600 * 1024), "bytes, at most"),
        (signed(8, issued_us=START_US + HOUR_US), "in our future"),
    ],
    ids=["cut", "stranger's", "empty", "huge", "from the future"],
)
async def test_a_bad_list_is_named_and_the_one_in_force_stays(
    keeper: TrustKeeper, file: Path, content: bytes, why: str
) -> None:
    write(file, signed(7))
    await keeper.look()
    write(file, content)
    await keeper.look()
    assert version(keeper) == 7
    assert why in keeper.trouble


async def test_the_trouble_passes_when_the_good_list_is_put_back(keeper: TrustKeeper, file: Path) -> None:
    write(file, signed(7))
    await keeper.look()
    write(file, b"torn")
    await keeper.look()
    assert keeper.trouble
    write(file, signed(7))
    await keeper.look()
    assert (version(keeper), keeper.trouble) == (7, "")


async def test_a_file_that_is_missing_is_named_and_costs_no_list(keeper: TrustKeeper, file: Path) -> None:
    await keeper.look()
    assert keeper.current is None
    assert "enrol this gateway" in keeper.trouble
    content = signed(1)
    write(file, content)
    await keeper.look()
    remove(file)
    await keeper.look()
    assert version(keeper) == 1
    assert str(file) in keeper.trouble
    write(file, content)
    await keeper.look()
    assert keeper.trouble == ""


async def test_a_list_is_pinned_before_it_is_in_force(keeper: TrustKeeper, file: Path, store: Store) -> None:
    write(file, signed(3))
    await keeper.look()
    assert keeper.current is not None
    assert await store.note(PIN_NOTE) == keeper.current.pin.encode()


async def test_without_trusted_time_the_moment_of_issue_is_not_held_against_a_list(
    file: Path, store: Store, hand: HandClock
) -> None:
    hand.synchronised = False
    hand.wall_us = HOUR_US
    write(file, signed(1))
    keeper = TrustKeeper(file, ROOT.verify_key, store=store, clock=hand.clock)
    await keeper.look()
    assert version(keeper) == 1


async def test_on_a_full_disk_the_list_in_force_is_known_again_and_a_newer_one_waits(
    keeper: TrustKeeper, file: Path, store: Store, hand: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(file, signed(1))
    await keeper.look()
    note = store.set_note

    async def refuse(key: str, value: bytes) -> None:
        raise StoreFullError("no space left")

    monkeypatch.setattr(store, "set_note", refuse)
    restarted = TrustKeeper(file, ROOT.verify_key, store=store, clock=hand.clock)
    await restarted.look()
    assert (version(restarted), restarted.trouble) == (1, "")

    # Nobody would know later that it was used: an older one could be put in its place.
    write(file, signed(2))
    await restarted.look()
    assert version(restarted) == 1
    assert "no space left" in restarted.trouble

    monkeypatch.setattr(store, "set_note", note)
    await restarted.look()
    assert (version(restarted), restarted.trouble) == (2, "")
