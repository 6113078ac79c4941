"""Writes proto/vectors/identity and trust: `python -m hil_tests.generate_identity_vectors` from the root.

The same every time: a test compares the files with what this makes, so that neither changes unseen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from hil_tests import document_cases, identity_cases, login_cases, recovery_cases, trust_cases
from hil_tests.evidence_cases import Json

FOLDER: Final = Path(__file__).parents[1] / "proto" / "vectors" / "identity"
TRUST_FOLDER: Final = FOLDER.parent / "trust"


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
        print(f"{FOLDER / name}: {len(content)} characters")
    TRUST_FOLDER.mkdir(exist_ok=True)
    (TRUST_FOLDER / "lists.json").write_text(_text(trust_cases.file()), encoding="utf-8")


def files() -> dict[str, str]:
    """File name -> content."""
    return {
        "keys.json": _text(_keys()),
        "histories.json": _text([case.json() for case in identity_cases.cases()]),
        "recoveries.json": _text([recovery_cases.json_of(case) for case in recovery_cases.cases()]),
        "logins.json": _text([case.json() for case in login_cases.cases()]),
        "epochs.json": _text([case.json() for case in identity_cases.epoch_cases()]),
        "documents.json": _text(list(document_cases.documents())),
        "copies.json": _text(list(document_cases.copies())),
    }


def _keys() -> Json:
    keys: list[Json] = [
        {"name": key.name, "algorithm": key.algorithm, "public_key_der": key.public_key_der.hex(),
         "key_id": key.key_id.hex(), "secret": key.secret.hex()}
        for key in (*identity_cases.KEYS, *recovery_cases.KEYS, *login_cases.KEYS)
    ]  # fmt: skip
    return {"warning": "The secrets are public: never trust these keys outside tests.", "keys": keys}


def _text(content: Json) -> str:
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    main()
