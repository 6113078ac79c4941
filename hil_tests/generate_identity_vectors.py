"""Writes proto/vectors/identity and trust: `python -m hil_tests.generate_identity_vectors` from the root.

The same every time: a test compares the files with what this makes, so that neither changes unseen.
"""

from __future__ import annotations

from typing import Final

from hil_tests import document_cases, identity_cases, login_cases, recovery_cases, trust_cases
from hil_tests.evidence_cases import Json
from hil_tests.vector_files import VECTORS, text_of, write

FOLDER: Final = VECTORS / "identity"
TRUST_FOLDER: Final = VECTORS / "trust"


def main() -> None:
    """Write all files."""
    write(FOLDER, files())
    write(TRUST_FOLDER, {"lists.json": text_of(trust_cases.file())})


def files() -> dict[str, str]:
    """File name -> content."""
    return {
        "keys.json": text_of(_keys()),
        "histories.json": text_of([case.json() for case in identity_cases.cases()]),
        "recoveries.json": text_of([recovery_cases.json_of(case) for case in recovery_cases.cases()]),
        "logins.json": text_of([case.json() for case in login_cases.cases()]),
        "epochs.json": text_of([case.json() for case in identity_cases.epoch_cases()]),
        "documents.json": text_of(list(document_cases.documents())),
        "copies.json": text_of(list(document_cases.copies())),
    }


def _keys() -> Json:
    keys: list[Json] = [
        {"name": key.name, "algorithm": key.algorithm, "public_key_der": key.public_key_der.hex(),
         "key_id": key.key_id.hex(), "secret": key.secret.hex()}
        for key in (*identity_cases.KEYS, *recovery_cases.KEYS, *login_cases.KEYS)
    ]  # fmt: skip
    return {"warning": "The secrets are public: never trust these keys outside tests.", "keys": keys}


if __name__ == "__main__":
    main()
