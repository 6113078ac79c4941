"""The configuration that `init` writes: it loads, and each of its commented defaults is a valid line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from agent.cli.template import annotated_config
from agent.config import PlatformSettings, Settings, model_at, read_settings


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


def test_the_platform_is_valid_with_its_defaults_once_its_required_keys_are_filled_in(tmp_path: Path) -> None:
    text = annotated_config({"token": {"label": "v2g-gateway"}})
    section = text[text.index("#[platform]") : text.index("\n[control]")]
    filled = re.sub(r"(?m)^(#.* Required\.\n#endpoints) =$", r'\1 = ["platform.example:443"]', section)
    filled = re.sub(r"(?m)^(#.* Required\.\n#\w+_file) =$", r'\1 = "/etc/v2g-gateway/some.pem"', filled)
    path = tmp_path / "gateway.toml"
    path.write_text(text.replace(section, re.sub(r"(?m)^#(\[platform\]|\w+ = .+)$", r"\1", filled)))
    platform = read_settings(path).platform
    assert platform is not None
    assert platform.endpoints == ["platform.example:443"]
    defaults = {key: field.default for key, field in PlatformSettings.model_fields.items() if not field.is_required()}
    assert platform.model_dump(include=set(defaults)) == defaults


@pytest.mark.parametrize("where", [("device",), ("input",), ("control", "mandate"), ("feeds", "source")])
def test_every_key_of_a_table_of_several_is_explained_with_its_default(where: tuple[str, ...]) -> None:
    title = f"[[{'.'.join(where)}]]"
    explained = annotated_config({}).split(f"Every key of {title}:\n")[1].split("# ----")[0]
    model = model_at(where)
    assert model is not None
    for key, field in model.model_fields.items():
        told = re.search(rf"(?m)^#   {key}: (.+(?:\n#       .+)*)", explained)
        assert told is not None, key
        assert field.is_required() == ("Required." in told[1]), key
        assert (field.default in (PydanticUndefined, None)) != ("Default:" in told[1].replace("\n#      ", "")), key


def test_every_section_has_every_key() -> None:
    text = annotated_config({})
    for name in Settings.model_fields:
        model = model_at((name,))
        assert model is not None
        section = re.search(rf"(?ms)^#?\[{name}\]\n(.*?)(?=^#?\[|\Z)", text)
        assert (section is None) == (name in ("device", "input")), name
        if section is None:
            continue
        for key in model.model_fields:
            assert (name, key) in (("control", "mandate"), ("feeds", "source")) or f"{key} =" in section[1], key


def test_every_key_is_explained() -> None:
    text = annotated_config({})
    for line in re.findall(r"(?m)^#?\w+ =.*$", text.split("# ---- Devices")[0]):
        before = text[: text.index(line)].rstrip("\n").splitlines()[-1]
        assert before.startswith("# "), line
