"""One value, one encoding; and whatever a peer sends, a value or a MalformedError."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence import cbor
from agent.evidence.errors import MalformedError

INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
SCALARS = st.none() | st.booleans() | INTEGERS | st.binary(max_size=300) | st.text(max_size=300)
VALUES: st.SearchStrategy[cbor.Value] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=30) | st.dictionaries(INTEGERS, inner, max_size=30), max_leaves=40
).filter(lambda value: _depth(value) <= cbor.MAX_DEPTH)


def _depth(value: cbor.Value) -> int:
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    if isinstance(value, dict):
        return 1 + max((_depth(item) for item in value.values()), default=0)
    return 0


@given(VALUES)
def test_what_is_encoded_decodes_to_itself(value: cbor.Value) -> None:
    assert cbor.decode(cbor.encode(value), what="value") == value


@given(VALUES)
def test_the_encoding_is_readable_by_cbor2(value: cbor.Value) -> None:
    assert cbor2.loads(cbor.encode(value)) == value


@given(st.binary(max_size=60) | VALUES.map(lambda value: cbor2.dumps(value, canonical=True)))
def test_only_the_one_encoding_is_accepted(encoded: bytes) -> None:
    try:
        value = cbor.decode(encoded, what="value")
    except MalformedError:
        return
    assert cbor.encode(value) == encoded


@given(VALUES, st.data())
def test_no_prefix_of_an_encoding_is_accepted(value: cbor.Value, data: st.DataObject) -> None:
    encoded = cbor.encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(MalformedError):
        cbor.decode(encoded[:cut], what="value")


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("integer in a longer head", "1800"),
        ("length in a longer head", "580161"),
        ("64-bit head for 32 bits", "1b00000000ffffffff"),
        ("indefinite bytes", "5f4100ff"),
        ("indefinite array", "9f00ff"),
        ("indefinite map", "bf0000ff"),
        ("break alone", "ff"),
        ("half float", "f90000"),
        ("double float", "fb0000000000000000"),
        ("undefined", "f7"),
        ("simple value 32", "f820"),
        ("reserved head", "1c"),
        ("map keys length first", "a2200018180000"),
        ("map key twice", "a201000101"),
        ("map key is text", "a1616100"),
        ("map key is a boolean", "a1f500"),
        ("text of broken UTF-8", "62c328"),
        ("text with a surrogate", "63eda080"),
        ("byte after the end", "0000"),
        ("string longer than the input", "5b7fffffffffffffff"),
        ("array longer than the input", "9b7fffffffffffffff"),
        ("map longer than the input", "bb7fffffffffffffff"),
        ("nothing", ""),
    ],
)
def test_other_encodings_are_refused(name: str, encoded: str) -> None:
    with pytest.raises(MalformedError, match="thing"):
        cbor.decode(bytes.fromhex(encoded), what="thing")


@pytest.mark.parametrize(
    "encoded",
    [
        "c5821a7fffffff02",  # a bigfloat that overflows
        "c482016161",  # a decimal of text
        "d81e820100",  # a rational divided by zero
        "d8236128",  # a broken regular expression
        "d81d05",  # a shared reference to nothing
    ],
)
def test_a_tag_is_never_interpreted(encoded: str) -> None:
    value = cbor.decode(bytes.fromhex(encoded), what="value")
    assert isinstance(value, cbor2.CBORTag)


def test_nesting_is_bounded() -> None:
    with pytest.raises(MalformedError, match="nested deeper"):
        cbor.decode(b"\x81" * 100_000 + b"\x00", what="value")
    assert cbor.decode(b"\x81" * cbor.MAX_DEPTH + b"\x00", what="value")
    with pytest.raises(MalformedError, match="nested deeper"):
        cbor.decode(b"\x81" * (cbor.MAX_DEPTH + 1) + b"\x00", what="value")


def test_length_is_bounded_before_anything_is_read() -> None:
    with pytest.raises(MalformedError, match="at most 10"):
        cbor.decode(bytes(11), what="value", most_bytes=10)


@pytest.mark.parametrize("value", [1.0, {"a": 1}, (1,), 1 << 64, -(1 << 64) - 1, {True: 1}])
def test_values_without_a_place_are_not_encoded(value: object) -> None:
    with pytest.raises(TypeError):
        cbor.encode(value)  # type: ignore[arg-type]  # that is the point


def test_what_could_not_be_encoded_leaves_nothing_behind() -> None:
    inner: list[cbor.Value] = ["a lone surrogate", "\ud800"]
    outer: list[cbor.Value] = [1, inner]
    with pytest.raises(UnicodeEncodeError):
        cbor.encode(outer)
    inner[1] = "text"
    assert cbor.encode(outer) == cbor2.dumps(outer)


def test_threads_encode_side_by_side() -> None:
    values: list[cbor.Value] = [[n, "text" * n, bytes(n), {1: n}] for n in range(200)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(cbor.encode, values)) == [cbor2.dumps(value) for value in values]
