"""Registers to values: against pysunspec2 where it can, against the specification where it cannot."""

from __future__ import annotations

from fractions import Fraction
from importlib import resources

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drivers.sunspec.codec import Value, layout
from tests.drivers.sunspec.fakes import definition, model_words
from tests.drivers.sunspec.oracle import as_pysunspec2_reads

ALL_MODELS = sorted(
    int(file.name.removeprefix("model_").removesuffix(".json"))
    for file in resources.files("sunspec2").joinpath("models", "json").iterdir()
    if file.name.startswith("model_")
)


@given(st.sampled_from([1, 101, 103, 113, 120, 121, 122, 123, 124, 203, 213, 701, 702, 703, 704, 713, 802]), st.data())
def test_any_registers_of_a_fixed_model_decode_as_pysunspec2_does(number: int, data: st.DataObject) -> None:
    model = definition(number)
    words = model_words(number, {})
    words[2:] = data.draw(st.lists(st.integers(0, 0xFFFF), min_size=len(words) - 2, max_size=len(words) - 2))
    if number == 1:
        words[2:] = [word & 0x7F7F for word in words[2:]]  # pysunspec2 refuses what is not UTF-8
    ours = {path: value.raw for path, value in layout(model, words[1], words).decode(words).items()}
    theirs = {
        path: point.expected for path, point in as_pysunspec2_reads(model, words).items() if point.expected is not None
    }
    text = {path for path, raw in (ours | theirs).items() if isinstance(raw, str)}
    assert {p: r for p, r in ours.items() if p not in text} == {p: r for p, r in theirs.items() if p not in text}


@pytest.mark.parametrize("number", ALL_MODELS)
def test_every_official_model_has_a_layout(number: int) -> None:
    model = definition(number)
    place = layout(model, 1000, [number, 1000, *[2] * 1000])
    assert place.fields["ID"].offset == 0
    offsets = [(at.offset, at.end) for at in place.fields.values()]
    assert all(end <= 1002 for _, end in offsets)
    assert all(a[1] <= b[0] for a, b in zip(sorted(offsets), sorted(offsets)[1:], strict=False)), "points overlap"


def test_nested_groups_are_laid_out_by_the_counts_that_the_device_gives() -> None:
    model = definition(705)
    words = [705, 0, *[0] * 20]
    place = layout(model, 200, words)
    assert "Crv[1].DeptRef" not in place.fields, "a count of 0 is no curve"
    counts = {name: layout(model, 20).fields[name].offset for name in ("NPt", "NCrv")}
    words[counts["NPt"]], words[counts["NCrv"]] = 4, 2
    place = layout(model, 200, words)
    assert {"Crv[1].Pt[1].V", "Crv[2].Pt[4].Var"} <= set(place.fields)
    assert "Crv[3].Pt[1].V" not in place.fields
    assert "Crv[1].Pt[5].V" not in place.fields


def test_an_absurd_count_stays_within_the_models_length() -> None:
    model = definition(705)
    place = layout(model, 60, [705, 60, *[0xFFFE] * 60])
    assert max(at.end for at in place.fields.values()) <= 62


@pytest.mark.parametrize("length", [65, 66])
def test_model_1_decodes_at_both_of_its_lengths(length: int) -> None:
    values = layout(definition(1), length).decode(model_words(1, {"Mn": "Maker", "SN": "42"}, length))
    assert (values["Mn"].raw, values["SN"].raw) == ("Maker", "42")


def test_a_model_that_is_cut_short_gives_what_it_has() -> None:
    whole = model_words(103, {"W": 1234, "W_SF": 0, "WH": 99, "WH_SF": 0})
    values = layout(definition(103), 20).decode(whole[:22])
    assert values["W"].in_parts(1) == 1234
    assert "WH" not in values


def test_a_model_that_is_longer_than_the_standard_decodes_its_known_part() -> None:
    words = [*model_words(103, {"W": 1234, "W_SF": 0}), *[7] * 10]
    words[1] = 60
    assert layout(definition(103), 60).decode(words)["W"].in_parts(1) == 1234


def test_a_point_whose_factor_is_cut_off_is_absent() -> None:
    # Model 103: W is at offset 14, its factor at 15: a length of 13 ends between them.
    assert "W" not in layout(definition(103), 13).fields


@pytest.mark.parametrize("factor", [-32768, 11, -11, 300])
def test_a_value_with_an_impossible_scale_factor_is_not_implemented(factor: int) -> None:
    words = model_words(103, {"W": 1234, "W_SF": factor})
    assert "W" not in layout(definition(103), 50).decode(words)


@pytest.mark.parametrize(
    ("raw", "factor", "watts"), [(123, 2, 12300), (123, 0, 123), (1255, -1, 126), (-1255, -1, -126)]
)
def test_scale_factors_of_both_signs_apply(raw: int, factor: int, watts: int) -> None:
    words = model_words(103, {"W": raw, "W_SF": factor})
    assert layout(definition(103), 50).decode(words)["W"].in_parts(1) == watts


def test_not_implemented_is_never_zero() -> None:
    for number in ALL_MODELS:
        values = layout(definition(number), 500).decode(model_words(number, {}, 500))
        assert set(values) <= {"ID", "L"}, number


@given(st.integers(-(2**63), 2**64), st.integers(-10, 10), st.sampled_from([1, 10, 1000]))
def test_in_parts_is_exact_and_rounds_ties_to_even(raw: int, factor: int, parts: int) -> None:
    exact = Fraction(raw) * Fraction(10) ** factor * parts
    assert Value(raw, factor).in_parts(parts) == round(exact)


@given(st.integers(-(2**31), 2**31), st.integers(-10, 10))
def test_scaled_is_the_nearest_float(raw: int, factor: int) -> None:
    assert float(Value(raw, factor).scaled()) == float(Fraction(raw) * Fraction(10) ** factor)


@given(st.integers(0, 50), st.integers(1, 53))
def test_a_stretch_decodes_to_the_same_values_as_the_whole_model(first: int, count: int) -> None:
    words = model_words(103, {"W": 1234, "W_SF": 0, "WH": 99, "WH_SF": 1, "Hz": 5000, "Hz_SF": -2})
    place = layout(definition(103), 50)
    assume(first + count <= 52)
    part = place.decode(words[first : first + count], first)
    whole = place.decode(words)
    assert all(whole[path] == value for path, value in part.items())
    inside = {p for p in whole if place.fields[p].span[0] >= first and place.fields[p].span[1] <= first + count}
    assert set(part) == inside


def test_text_that_is_not_utf8_is_read_as_latin1() -> None:
    words = model_words(1, {})
    words[2:4] = [0x4DFC, 0x6C00]
    assert layout(definition(1), 66).decode(words)["Mn"].raw == "M\u00fcl"
