"""A bundle gives back what was put in, and says where it is damaged."""

from __future__ import annotations

import io

import cbor2
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


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (cbor2.dumps(cbor2.CBORTag(35, "(a*)*b")), "a regular expression"),
        (b"\xd8\x1c\x82\xd8\x1d\x00\x80", "a value that holds itself"),
        (b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01", "a decimal of any size"),
        (b"\x9f\x01\xff", "an array of no stated length"),
        (b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "an array longer than the file"),
        (b"\x98\x04" + HEAD.encode()[1:], "a head that is encoded longer than it needs"),
        (BundleHead("x" * 100_000, ()).encode(), "a head of any size"),
    ],
)
def test_nothing_in_a_file_is_interpreted_but_what_a_bundle_has(head: bytes, named: str) -> None:
    with pytest.raises(MalformedError):
        read_bundle(io.BytesIO(head))


def test_a_batch_that_claims_to_be_huge_is_refused_before_it_is_read() -> None:
    class Counting(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1) -> bytes:
            self.most = max(self.most, -1 if size is None else size)
            return super().read(size)

    file = Counting(HEAD.encode() + b"\x5a\x7f\xff\xff\xff" + bytes(1000))
    with pytest.raises(MalformedError, match="batch 1"):
        list(read_bundle(file)[1])
    assert file.most <= 1 << 20


def test_something_else_among_the_batches_is_refused() -> None:
    with pytest.raises(MalformedError, match="batch 1"):
        list(read_bundle(io.BytesIO(HEAD.encode() + b"\x01"))[1])
