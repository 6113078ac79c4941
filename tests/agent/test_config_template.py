"""The configuration that `init` writes: it loads, and each of its commented defaults is a valid line."""

from __future__ import annotations

import re
from pathlib import Path

from agent.cli.template import annotated_config
from agent.config import Settings, read_settings


def test_the_written_file_loads_and_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(annotated_config({"token": {"label": "v2g-gateway"}}))
    assert read_settings(path) == Settings.model_validate({"token": {"label": "v2g-gateway"}})


def test_each_commented_default_is_a_valid_line_with_the_default_value(tmp_path: Path) -> None:
    text = annotated_config({"token": {"label": "v2g-gateway"}}).split("# ---- Devices")[0].split("#[platform]")
    shown = text[0] + re.sub(r"(?s)^.*?(?=\n\[control\])", "", text[1])
    uncommented = re.sub(r"(?m)^#(\w+ = .+)$", r"\1", shown)
    assert uncommented.count(" = ") > 30
    path = tmp_path / "gateway.toml"
    path.write_text(uncommented)
    assert read_settings(path) == Settings.model_validate({"token": {"label": "v2g-gateway"}})


def test_the_example_devices_are_valid(tmp_path: Path) -> None:
    head, examples = annotated_config({"token": {"label": "v2g-gateway"}}).split("# ---- Devices")
    path = tmp_path / "gateway.toml"
    path.write_text(head + "\n" + re.sub(r"(?m)^#(?! )", "", examples.split("\n", 1)[1]))
    assert [device.id for device in read_settings(path).device] == ["grid", "pv-1", "car-1"]


def test_every_key_is_explained() -> None:
    text = annotated_config({})
    for line in re.findall(r"(?m)^#?\w+ =.*$", text.split("# ---- Devices")[0]):
        before = text[: text.index(line)].rstrip("\n").splitlines()[-1]
        assert before.startswith("# "), line
