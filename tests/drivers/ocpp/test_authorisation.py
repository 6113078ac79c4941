"""Who may charge: what is said of a token, and what a charger may accept while it does not hear us."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.authorisation import CACHE_US, Authority
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.timestamps import parse_timestamp_us
from drivers.ocpp.tokens import SiteToken, SiteTokens, TokenStatus, masked, token_digest

NOW_US = 1_767_225_600_000_000


def authority(*tokens: SiteToken, master: str = "") -> Authority:
    site = SiteTokens(master)
    site.replace(tokens)
    evses = [
        ChargerSettings(device_id="a", charger_id="CP", evse_id=1, local_tokens=("Both", "Here")),
        ChargerSettings(device_id="b", charger_id="CP", evse_id=2, local_tokens=("Both",)),
    ]
    return Authority(evses, site)


def test_a_token_is_good_until_the_moment_it_expires() -> None:
    mine = authority(SiteToken(name="T", expires_us=NOW_US))
    token = {"idToken": "T", "type": "ISO14443"}
    assert mine.judge(token, ["a"], NOW_US - 1).status is TokenStatus.ACCEPTED  # type: ignore[arg-type]
    assert mine.judge(token, ["a"], NOW_US).status is TokenStatus.EXPIRED  # type: ignore[arg-type]


def test_a_charger_may_not_trust_its_cache_longer_than_the_token_is_good() -> None:
    mine = authority(SiteToken(name="T", expires_us=NOW_US + 5_000_000), SiteToken(name="U"))
    for name, until_us in (("T", NOW_US + 5_000_000), ("U", NOW_US + CACHE_US)):
        told = mine.info(mine.judge({"idToken": name, "type": "Local"}, ["a"], NOW_US), NOW_US)
        assert parse_timestamp_us(str(told["cacheExpiryDateTime"])) == until_us


def test_a_token_of_the_site_and_of_one_evse_is_good_at_all() -> None:
    mine = authority(SiteToken(name="here", device_ids=frozenset({"b"})))
    assert mine.judge({"idToken": "HERE", "type": "Local"}, ["b"], NOW_US).device_ids == frozenset()


def test_a_token_of_devices_elsewhere_is_not_good_here_and_not_listed() -> None:
    mine = authority(SiteToken(name="T", device_ids=frozenset({"elsewhere"})))
    assert mine.judge({"idToken": "T", "type": "Local"}, ["a", "b"], NOW_US).status is TokenStatus.NOT_HERE
    assert len(mine.local_list(NOW_US)) == 2


def test_a_mask_shows_too_little_to_copy_a_token() -> None:
    assert masked("04AABBCCDDEE") == "...EE"
    assert masked("1234") == "..."


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=36)
site_tokens = st.builds(
    SiteToken,
    name=names,
    kind=st.sampled_from(["", "ISO14443", "eMAID"]),
    group=st.sampled_from(["", "G", "MASTER"]),
    expires_us=st.none() | st.integers(NOW_US - 10**12, NOW_US + 10**12),
    blocked=st.booleans(),
    device_ids=st.frozensets(st.sampled_from(["a", "b", "c"])),
)


@given(st.lists(site_tokens, max_size=20), st.booleans())
def test_the_local_list_fits_its_schema_and_says_what_we_would_say(tokens: list[SiteToken], master: bool) -> None:
    mine = authority(*tokens, master="MASTER" if master else "")
    entries = mine.local_list(NOW_US)
    sent: JsonObject = {"versionNumber": 1, "updateType": "Full", "localAuthorizationList": list(entries)}
    assert schemas(Version.V201).violation("SendLocalList", Direction.REQUEST, sent) is None
    for entry in entries:
        token, info = entry["idToken"], entry["idTokenInfo"]
        assert isinstance(info, dict)
        judged = mine.judge(token, ["a", "b"], NOW_US)  # type: ignore[arg-type]
        assert info["status"] == judged.status.value
        assert info.get("evseId") == mine.info(judged, NOW_US).get("evseId")


@given(names)
def test_a_hashed_token_is_known_when_shown_and_in_no_list(name: str) -> None:
    mine = authority(SiteToken(sha256=token_digest(name)))
    assert mine.judge({"idToken": name.swapcase(), "type": "Local"}, ["a"], NOW_US).accepted
    assert len(mine.local_list(NOW_US)) == 2
