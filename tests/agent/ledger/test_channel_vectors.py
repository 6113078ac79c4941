"""proto/vectors/channels: the files are what the generator makes, and this code and a stranger judge as they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.evidence import statements
from agent.evidence.cose import VerifyKey
from agent.evidence.statements import SettlementWindow
from agent.ledger import follower
from agent.ledger.errors import ChannelError
from agent.ledger.frames import Proposal, Reestablish
from agent.ledger.state import ChannelTerms, SignedState, decode_state
from agent.ledger.window import Progress, close_window
from agent.measure.reading import Reading
from hil_tests.generate_channel_vectors import FOLDER, files
from tests.agent.evidence.independent_files import digest_of
from tests.agent.ledger import independent


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def _name(case: dict[str, Any]) -> str:
    return str(case["name"])


SITE = _read("site.json")
_OCTETS = {name: bytes.fromhex(SITE[name]) for name in ("contract", "participant", "counterparty", "agreement_hash")}
TERMS = ChannelTerms(gateway_id=SITE["gateway_id"], device_id=SITE["device_id"], chain_id=SITE["chain_id"], **_OCTETS)
DEVICE_KEY = VerifyKey(SITE["device_algorithm"], bytes.fromhex(SITE["device_key_der"]))
PLATFORM_KEY = VerifyKey(SITE["platform_algorithm"], bytes.fromhex(SITE["platform_key_der"]))
THEIRS = independent.Channel(
    independent.Terms(SITE["gateway_id"], SITE["device_id"], (SITE["chain_id"], *_OCTETS.values())),
    (SITE["device_algorithm"], bytes.fromhex(SITE["device_key_der"])),
    (SITE["platform_algorithm"], bytes.fromhex(SITE["platform_key_der"])),
)  # fmt: skip


def _held(case: dict[str, Any]) -> bytes | None:
    return None if case["held"] is None else bytes.fromhex(case["held"])


def test_the_files_are_what_the_generator_makes() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == files()


def test_the_channel_id_is_that_of_the_terms() -> None:
    assert TERMS.channel_id == THEIRS.terms.channel_id == bytes.fromhex(SITE["channel_id"])


@pytest.mark.parametrize("case", _read("states.json"), ids=_name)
def test_state_vector(case: dict[str, Any]) -> None:
    encoded = bytes.fromhex(case["state"])
    if case["valid"]:
        assert decode_state(encoded).digest.hex() == case["digest"]
        assert digest_of(independent.state_of(encoded)).hex() == case["digest"]
        return
    with pytest.raises(ChannelError):
        decode_state(encoded)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent.state_of(encoded)


@pytest.mark.parametrize("case", _read("proposals.json"), ids=_name)
def test_proposal_vector(case: dict[str, Any]) -> None:
    state, signature = bytes.fromhex(case["state"]), bytes.fromhex(case["gateway_signature"])
    windows = [bytes.fromhex(each) for each in case["windows"]]
    held = _held(case)
    holding = None if held is None else SignedState(decode_state(held))
    verdict = follower.judge(holding, Proposal(state=state, gateway_signature=signature), TERMS, DEVICE_KEY, windows)
    assert verdict.ruling.value == case["ruling"], verdict.reason
    assert independent.judge(THEIRS, held, state, signature, windows) == case["ruling"]


@pytest.mark.parametrize("case", _read("questions.json"), ids=_name)
def test_question_vector(case: dict[str, Any]) -> None:
    shown, held = (
        case["presented"] or dict.fromkeys(("state", "gateway_signature", "platform_signature"), ""),
        _held(case),
    )
    parts = {name: bytes.fromhex(value) for name, value in shown.items()}
    asked = (parts["state"], parts["gateway_signature"], parts["platform_signature"])
    holding = None if held is None else SignedState(decode_state(held))
    question = Reestablish(
        nonce=bytes(16), is_answer=False, state=asked[0], gateway_signature=asked[1], platform_signature=asked[2]
    )

    def ours() -> bool:
        return follower.answer(holding, question, TERMS, DEVICE_KEY, PLATFORM_KEY).adopt is not None

    if case["takes_back"] is not None:
        assert ours() == independent.adopts(THEIRS, held, asked) == case["takes_back"]
        return
    with pytest.raises(ChannelError):
        ours()
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent.adopts(THEIRS, held, asked)


@pytest.mark.parametrize("case", _read("windows.json"), ids=_name)
def test_window_vector(case: dict[str, Any]) -> None:
    readings, windows = ([bytes.fromhex(each) for each in case[name]] for name in ("readings", "windows"))
    said = [statements.decode(each) for each in windows]
    left = [(reading, raw) for raw in readings if isinstance(reading := statements.decode(raw), Reading)]
    ours: list[SettlementWindow] = []
    progress: Progress | None = None
    for each in said:
        assert isinstance(each, SettlementWindow)
        progress = progress or Progress(each.window_start_us)
        closed = close_window(
            progress, left, device_id=SITE["device_id"], incarnation=each.incarnation, end_us=each.window_end_us,
            tolerance_us=case["tolerance_us"], command_hashes=each.command_hashes,
        )  # fmt: skip
        ours.append(closed.window)
        progress = closed.progress
        left = left[closed.window.reading_count :]
    assert (ours == said and not left) == case["valid"]
    if case["valid"]:
        independent.check_windows(readings, windows, case["tolerance_us"])
        return
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent.check_windows(readings, windows, case["tolerance_us"])
