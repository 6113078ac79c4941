"""Where things may be fetched: HTTPS, or this machine itself; and how the files are named there."""

from __future__ import annotations

import pytest

from agent.identity.locations import HISTORY, LocationError, location_of


def test_a_host_alone_has_its_files_below_well_known_and_a_path_below_itself() -> None:
    assert location_of("https://gw.example").url(HISTORY) == "https://gw.example/.well-known/v2g-gateway/history.cbor"
    assert location_of("https://gw.example/").url(HISTORY) == location_of("https://gw.example").url(HISTORY)
    assert location_of("https://gw.example/a/b/").url(HISTORY) == "https://gw.example/a/b/history.cbor"


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:80", "https://10.0.0.1"])
def test_plain_http_is_for_this_machine_itself(url: str) -> None:
    assert location_of(url).base == url


@pytest.mark.parametrize(
    "url",
    [
        "http://gw.example",
        "http://127.0.0.1.example",
        "http://10.0.0.1",
        "ftp://gw.example",
        "file:///etc/passwd",
        "https://",
        "https:gw.example",
        "https://me:secret@gw.example",
        "https://gw.example/?of=me",
        "https://gw.example/#part",
        "https://gw.example/\r\nHost: x",
        "https://gw.example/ü",
        "https://gw.example:99999",
        "https://gw.example/" + "a" * 600,
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(LocationError):
        location_of(url)
