"""A bundle gives back what was put in, and says where it is damaged."""

from __future__ import annotations

import io

import pytest

from agent.evidence.bundle import BundleHead, encode_batch_item, read_bundle
from agent.evidence.errors import MalformedError

HEAD = BundleHead("did:key:zDn", (b"key",))


def bundle(*batches: bytes) -> bytes:
    return HEAD.encode() + b"".join(encode_batch_item(batch) for batch in batches)


def test_a_bundle_gives_back_its_head_and_batches_in_order() -> None:
    head, batches = read_bundle(io.BytesIO(bundle(b"one", b"two")))
    assert head == HEAD
    assert list(batches) == [b"one", b"two"]


def test_an_empty_bundle_has_no_batches() -> None:
    assert list(read_bundle(io.BytesIO(bundle()))[1]) == []


def test_a_bundle_that_was_cut_says_in_which_batch() -> None:
    batches = read_bundle(io.BytesIO(bundle(b"one", b"two" * 20)[:-5]))[1]
    assert next(batches) == b"one"
    with pytest.raises(MalformedError, match="batch 2 of the bundle: the file ends"):
        next(batches)


@pytest.mark.parametrize("content", [b"", b"\xff", b"PK\x03\x04", b"\x81\x01", b"[" * 50_000, b"\x81" * 50_000])
def test_another_file_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedError):
        read_bundle(io.BytesIO(content))


def test_something_else_among_the_batches_is_refused() -> None:
    with pytest.raises(MalformedError, match="batch 1"):
        list(read_bundle(io.BytesIO(HEAD.encode() + b"\x01"))[1])
