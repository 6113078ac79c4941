"""A charger's meter with a key of its own: it signs its registers as OCMF records, as a calibrated meter does.

Shares no code with the gateway. The private key is a file, PEM; `new_key` makes a pair as its maker would.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

_REASONS: Final = {"Transaction.Begin": "B", "Transaction.End": "E"}


@dataclass(slots=True)
class SigningMeter:
    """Signs what it is asked to. `spoiled`: somebody between meter and gateway changes a digit of each record."""

    private_key: ec.EllipticCurvePrivateKey
    serial: str = "RIG-METER-1"
    asked: bool = False
    """The CSMS wants its signatures."""
    spoiled: bool = False
    _transactions: int = 0
    _fiscal: int = 0

    @classmethod
    def from_file(cls, path: Path) -> SigningMeter:
        """Raises OSError, ValueError."""
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{path}: meters sign with elliptic curves")
        return cls(key)

    def signed_meter_value(
        self, *, import_milliwatt_hours: int, export_milliwatt_hours: int, context: str, running: bool, moment_s: float
    ) -> dict[str, str]:
        """OCPP SignedMeterValueType of both registers at one moment. `running`: within a transaction."""
        if context == "Transaction.Begin":
            self._transactions += 1
        self._fiscal += not running
        moment = datetime.fromtimestamp(moment_s, UTC)
        first: dict[str, object] = {
            "TM": moment.strftime("%Y-%m-%dT%H:%M:%S,") + f"{moment.microsecond // 1000:03d}+0000 S",
            "TX": _REASONS.get(context, "C"),
            "RV": _kilowatt_hours(import_milliwatt_hours),
            "RI": "1-b:1.8.0",
            "RU": "kWh",
            "RT": "AC",
            "EF": "",
            "ST": "G",
        }
        if not running and context not in _REASONS:
            del first["TX"]
        payload = json.dumps(
            {
                "FV": "1.0",
                "GI": "Rig Works",
                "GS": self.serial,
                "PG": f"T{self._transactions}" if running else f"F{self._fiscal}",
                "MV": "Rig Works",
                "MS": self.serial,
                "IS": False,
                "IF": [],
                "IT": "NONE",
                "RD": [first, {"RV": _kilowatt_hours(export_milliwatt_hours), "RI": "1-b:2.8.0"}],
            }
        )
        signature = self.private_key.sign(payload.encode(), ec.ECDSA(hashes.SHA256()))
        if self.spoiled:
            payload = payload.replace('"RV": "0', '"RV": "9', 1)
        record = f'OCMF|{payload}|{{"SA":"ECDSA-{self.private_key.curve.name}-SHA256","SD":"{signature.hex()}"}}'
        public = self.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {
            "signedMeterData": base64.b64encode(record.encode()).decode(),
            "signingMethod": f"ECDSA-{self.private_key.curve.name}-SHA256",
            "encodingMethod": "OCMF",
            "publicKey": base64.b64encode(public).decode() if context == "Transaction.Begin" else "",
        }


def _kilowatt_hours(milliwatt_hours: int) -> str:
    """As some meters write it: text, padded with zeros."""
    return f"{milliwatt_hours // 1_000_000:08d}.{milliwatt_hours % 1_000_000:06d}"


def new_key(private_file: Path, public_file: Path) -> str:
    """A meter's key pair, as its maker makes it; returns the SHA-256 that stands on the meter."""
    key = ec.generate_private_key(ec.BrainpoolP256R1())
    private_file.touch(mode=0o600)
    private_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key()
    public_file.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
