"""The second signature as a person at the terminal asks for it: `verify --policy` and `--countersigner`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.evidence import cose
from agent.evidence.cose import VerifyKey
from agent.evidence.countersignature import Policy, policy_of
from agent.evidence.errors import UnsupportedError
from agent.evidence.verify import VerifiedBatch
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem

PolicyOption = Annotated[
    str,
    typer.Option(
        metavar="POLICY", help="Of the signature and the countersignature of each root: either, both or pq-only."
    ),
]
CountersignerOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The gateway's countersignature key (ML-DSA-65) that you trust, PEM."),
]

_NAMES: Final[Mapping[int, str]] = {
    cose.ES256: "ES256",
    cose.ESP256: "ESP256",
    cose.ES256K: "ES256K",
    cose.ED25519: "Ed25519",
    cose.ML_DSA_65: "ML-DSA-65",
}


class PolicyError(Exception):
    """The policy cannot be followed. Says what is missing."""


@dataclass(frozen=True, slots=True)
class Second:
    """What is asked of countersignatures."""

    key: VerifyKey | None = None
    policy: Policy = Policy.EITHER


def second_of(policy: str, key_file: Path | None, *, has_history: bool = False) -> Second:
    """Raises PolicyError."""
    try:
        wanted = policy_of(policy)
        key = None if key_file is None else verify_key_from_pem(key_file.read_bytes(), what=str(key_file))
    except UnsupportedError as error:
        raise PolicyError(f"--policy: {error}") from error
    except OSError as error:
        raise PolicyError(f"--countersigner {key_file}: {error.strerror}") from error
    except IdentityError as error:
        raise PolicyError(f"--countersigner: {error}") from error
    if key is not None and key.algorithm != cose.ML_DSA_65:
        raise PolicyError(f"--countersigner {key_file}: is no ML-DSA-65 key; it is enrolment/countersign.pem")
    if key is None and wanted is not Policy.EITHER and not has_history:
        raise PolicyError(
            f"--policy {wanted.value} needs the key of the countersignatures: --countersigner FILE.pem, or a --history "
            "that names it"
        )
    return Second(key, wanted)


class SignatureCount:
    """Which signatures over roots hold, over a run of batches."""

    def __init__(self, second: Second) -> None:
        self._second = second
        self._held: Counter[int] = Counter()
        self._batches = self._countersigned = 0

    def see(self, batch: VerifiedBatch) -> None:
        """One verified batch."""
        self._batches += 1
        self._held.update(batch.proven_by)
        self._countersigned += batch.sealed.countersignature is not None

    def as_json(self) -> dict[str, object]:
        """By the names of COSE; `countersigned`: batches with a countersignature, looked at or not."""
        held = {_name(algorithm): count for algorithm, count in sorted(self._held.items(), reverse=True)}
        return {"policy": self._second.policy.value, "held": held, "countersigned": self._countersigned}

    def lines(self) -> list[str]:
        """For a person; nothing where there is no second signature and none was asked for."""
        if not self._countersigned:
            return []
        if self._second.key is None and self._second.policy is Policy.EITHER:
            text = f"{self._countersigned} roots are countersigned; that proves nothing without --countersigner."
            return [text]
        held = ", ".join(f"{_name(number)} in {count}" for number, count in sorted(self._held.items(), reverse=True))
        lines = [f"Signatures that hold, of {self._batches} batches: {held} (policy {self._second.policy.value})."]
        if self._second.policy is Policy.EITHER and self._held[cose.ML_DSA_65] < self._batches:
            lines.append("Not every root is countersigned, or not well: policy either lets that pass, both does not.")
        return lines


def _name(algorithm: int) -> str:
    return _NAMES.get(algorithm, str(algorithm))
