"""Lines from a folder of files, and what is no source of lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.gpio import Bias, LineError, open_line


def test_a_file_that_says_0_or_1_is_a_line(tmp_path: Path) -> None:
    line = open_line(tmp_path, 5, Bias.AS_IS)
    with pytest.raises(LineError, match="No such file"):
        line.read()
    (tmp_path / "5").write_text("1\n")
    assert line.read()
    (tmp_path / "5").write_text("0")
    assert not line.read()
    line.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_a_file_that_says_anything_else_has_no_level(tmp_path: Path, said: bytes) -> None:
    (tmp_path / "1").write_bytes(said)
    line = open_line(tmp_path, 1, Bias.AS_IS)
    if said.strip() in (b"0", b"1") and len(said) <= 16:
        assert line.read() is (said.strip() == b"1")
    elif said[:16].strip() not in (b"0", b"1"):
        with pytest.raises(LineError, match="neither 0 nor 1"):
            line.read()


def test_what_is_no_chip_is_refused_with_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with pytest.raises(LineError, match="gpiodetect"):
        open_line(tmp_path / "gpiochip9", 1, Bias.AS_IS)
    with pytest.raises(LineError, match="neither a GPIO chip"):
        open_line(tmp_path / "file", 1, Bias.AS_IS)
