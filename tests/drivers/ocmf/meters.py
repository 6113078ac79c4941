"""Meters that sign, made without drivers.ocmf: by the `ecdsa` package, with arithmetic of its own on each curve."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

import ecdsa
from ecdsa import ellipticcurve, util

_192K1: Final = ellipticcurve.CurveFp(2**192 - 2**32 - 4553, 0, 3)
SECP192K1: Final = ecdsa.curves.Curve(
    "secp192k1",
    _192K1,
    ellipticcurve.PointJacobi(
        _192K1,
        0xDB4FF10EC057E9AE26B07D0280B7F4341DA5D1B1EAE06C7D,
        0x9B2F2F6D9C5628A7844163D015BE86344082AA88D95E2F9D,
        1,
        0xFFFFFFFFFFFFFFFFFFFFFFFE26F2FC170F69466A74DEFD8D,
        generator=True,
    ),
    (1, 3, 132, 0, 31),
)
CURVES: Final = {
    "secp192k1": SECP192K1,
    "secp192r1": ecdsa.NIST192p,
    "secp256k1": ecdsa.SECP256k1,
    "secp256r1": ecdsa.NIST256p,
    "secp384r1": ecdsa.NIST384p,
    "secp521r1": ecdsa.NIST521p,
    "brainpool256r1": ecdsa.BRAINPOOLP256r1,
    "brainpool384r1": ecdsa.BRAINPOOLP384r1,
    "brainpool512r1": ecdsa.BRAINPOOLP512r1,
}
BEGIN: Final = {
    "TM": "2026-03-01T10:00:00,000+0100 S", "TX": "B", "RV": 100.25, "RI": "1-b:1.8.0", "RU": "kWh", "RT": "AC",
    "EF": "", "ST": "G",
}  # fmt: skip
END: Final = {**BEGIN, "TM": "2026-03-01T11:00:00,000+0100 S", "TX": "E", "RV": 107.5}


class Meter:
    """A meter with a key of its own."""

    def __init__(self, curve: str = "secp256r1", number: int = 1) -> None:
        self.curve = curve
        secret = int.from_bytes(hashlib.sha512(f"{curve} {number}".encode()).digest()) % (CURVES[curve].order - 1) + 1
        self._key = ecdsa.SigningKey.from_secret_exponent(secret, CURVES[curve])

    @property
    def raw(self) -> bytes:
        """X and Y."""
        return bytes(self._key.verifying_key.to_string())

    @property
    def der(self) -> bytes:
        return bytes(self._key.verifying_key.to_der())

    @property
    def pem(self) -> str:
        return str(self._key.verifying_key.to_pem().decode())

    def sign(self, signed: bytes, *, raw: bool = False, hash_name: str = "sha256") -> bytes:
        sigencode: Callable[..., bytes] = util.sigencode_string if raw else util.sigencode_der
        signature = self._key.sign_deterministic(signed, hashfunc=getattr(hashlib, hash_name), sigencode=sigencode)
        return bytes(signature)

    def record(self, *readings: dict[str, Any], **signature: Any) -> str:
        """A record over these readings; `signature` replaces or adds fields of its second half."""
        payload = json.dumps({"FV": "1.0", "GS": "G-1", "MS": "M-1", "PG": "T1", "RD": list(readings or (BEGIN,))})
        tail = {"SA": f"ECDSA-{self.curve}-SHA256", "SD": self.sign(payload.encode()).hex(), **signature}
        kept = {key: value for key, value in tail.items() if value is not None}
        return f"OCMF|{payload}|{json.dumps(kept)}"
