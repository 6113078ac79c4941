"""Where a key stands in a TOML text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.toml_lines import line_of

TEXT = """\
title = "x"  # line 1
readable = [
    [1, 2],
    [3, 4]
]
[site]  # line 6
fuse_a = 1
inline = { deep = 1 }
[[device]]
id = "a"
phases = [1, 2]
[[ device ]]
id = "b"
unit = 7
[device.more]
id = "c"
[points."power"]
address = 1
not_implemented = [1]
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ((), 1),
        (("title",), 1),
        (("readable", 1, 0), 2),
        (("absent",), 1),
        (("site",), 6),
        (("site", "fuse_a"), 7),
        (("site", "absent"), 6),
        (("site", "inline", "deep"), 8),
        (("device", 0, "id"), 10),
        (("device", 0, "phases", 1), 11),
        (("device", 1), 12),
        (("device", 1, "id"), 13),
        (("device", 1, "absent"), 12),
        (("device", 1, "more", "id"), 16),
        (("device", 0, "more", "id"), 9),
        (("points", "power", "address"), 18),
        (("points", "power", "not_implemented", 0), 19),
        (("points", "power", "type"), 17),
    ],
)
def test_a_location_is_the_line_of_its_key_or_of_its_section(where: tuple[int | str, ...], line: int) -> None:
    assert line_of(TEXT, where) == line


@given(st.text("[]a.=\"'\n 1#{}", max_size=60), st.lists(st.integers(0, 3) | st.sampled_from("ab")))
def test_any_text_has_a_line_for_any_location(text: str, where: list[int | str]) -> None:
    assert 1 <= line_of(text, where) <= max(1, len(text.splitlines()))
