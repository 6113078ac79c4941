"""Reads proto/vectors/evidence for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.evidence.cose import VerifyKey
from agent.evidence.verify import TrustedKey, Verifier

FOLDER = Path(__file__).parents[3] / "proto" / "vectors" / "evidence"


def load(name: str) -> Any:
    """The content of one file."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def cases(name: str) -> list[Any]:
    """Its cases, in a form that pytest can name."""
    return [dict(case) for case in load(name)]


def name_of(case: Any) -> str:
    return str(case["name"])


def verifier() -> Verifier:
    """With the keys of keys.json."""
    return Verifier(
        TrustedKey(entry["gateway_id"], VerifyKey(entry["algorithm"], bytes.fromhex(entry["public_key_der"])))
        for entry in load("keys.json")["trusted"]
    )


def platform_key() -> VerifyKey:
    entry = load("keys.json")["platform"]
    return VerifyKey(entry["algorithm"], bytes.fromhex(entry["public_key_der"]))


def device_key() -> VerifyKey:
    entry = load("keys.json")["device"]
    return VerifyKey(entry["algorithm"], bytes.fromhex(entry["public_key_der"]))
