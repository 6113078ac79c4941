"""Public keys of meters, in the forms in which people and chargers have them, to one form with a fingerprint.

PEM; hexadecimal with or without spaces and colons; base64; of a SubjectPublicKeyInfo or of bare coordinates X and Y.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from drivers.ocmf.curves import CURVES, Curve, Point, curve_named
from drivers.ocmf.errors import MeterKeyError

MOST_TEXT: Final = 8192
_EC_PUBLIC_KEY: Final = "1.2.840.10045.2.1"
_PEM: Final = re.compile(r"-----BEGIN PUBLIC KEY-----(.+?)-----END PUBLIC KEY-----", re.DOTALL)
_OCA: Final = re.compile(r"oca:(?:base16|base64):asn1:", re.IGNORECASE)
"""What chargers put before a key, by OCA's application note on signed meter values."""
_RAW_OCTETS: Final = frozenset(2 * curve.octets for curve in CURVES.values())


@dataclass(frozen=True, slots=True)
class MeterKey:
    """A point on a named curve."""

    curve: Curve
    point: Point

    @property
    def der(self) -> bytes:
        """SubjectPublicKeyInfo with the point uncompressed: the one form that is compared and kept."""
        octets = self.curve.octets
        x, y = (coordinate.to_bytes(octets) for coordinate in self.point)
        return _spki_head(self.curve) + b"\x04" + x + y

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of `der`."""
        return hashlib.sha256(self.der).digest()


def key_from_text(text: str) -> MeterKey:
    """A key in any of the textual forms. Raises MeterKeyError."""
    if len(text) > MOST_TEXT:
        raise MeterKeyError(f"a public key of {len(text)} characters; the longest here has {MOST_TEXT}")
    return _from_text(text, wrapped=False)


def key_from_der(der: bytes) -> MeterKey:
    """A SubjectPublicKeyInfo. Raises MeterKeyError."""
    for curve in CURVES.values():
        head = _spki_head(curve)
        if der.startswith(head) and len(der) == len(head) + 1 + 2 * curve.octets and der[len(head)] == 4:
            return _on_curve(curve, der[len(head) + 1 :])
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MeterKeyError("not a SubjectPublicKeyInfo of a curve that is known here") from error
    curve_found = curve_named(key.curve.name) if isinstance(key, ec.EllipticCurvePublicKey) else None
    if not isinstance(key, ec.EllipticCurvePublicKey) or curve_found is None:
        raise MeterKeyError(f"not a key of a curve that meters sign with: {', '.join(CURVES)}")
    numbers = key.public_numbers()  # a compressed point, for one
    return MeterKey(curve_found, (numbers.x, numbers.y))


def _from_text(text: str, *, wrapped: bool) -> MeterKey:
    pem = _PEM.search(text)
    bare = re.sub(r"[\s:]", "", pem[1] if pem else _OCA.sub("", text.strip()))
    if not bare:
        raise MeterKeyError("empty, where a public key is needed")
    if re.fullmatch(r"(0x)?([0-9A-Fa-f]{2})+", bare):
        return _from_octets(bytes.fromhex(bare.removeprefix("0x")), wrapped=True)
    try:
        octets = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MeterKeyError("neither PEM nor hexadecimal nor base64; PEM begins -----BEGIN PUBLIC KEY-----") from error
    return _from_octets(octets, wrapped=wrapped)


def _from_octets(octets: bytes, *, wrapped: bool) -> MeterKey:
    if octets.startswith(b"\x30") and len(octets) not in _RAW_OCTETS:
        return key_from_der(octets)
    if len(octets) in _RAW_OCTETS:
        return _from_coordinates(octets)
    if octets.startswith(b"\x04") and len(octets) - 1 in _RAW_OCTETS:
        return _from_coordinates(octets[1:])
    if not wrapped and octets.isascii():  # OCPP: base64 of the text that the meter shows
        return _from_text(octets.decode("ascii"), wrapped=True)
    raise MeterKeyError(f"{len(octets)} octets are neither a SubjectPublicKeyInfo nor the coordinates of a known curve")


def _from_coordinates(octets: bytes) -> MeterKey:
    """The curve is the one that the point is on: by chance it is on no second one."""
    for curve in CURVES.values():
        if len(octets) == 2 * curve.octets:
            try:
                return _on_curve(curve, octets)
            except MeterKeyError:
                continue
    raise MeterKeyError(f"{len(octets)} octets that are no point of a curve that meters sign with")


def _on_curve(curve: Curve, octets: bytes) -> MeterKey:
    point = int.from_bytes(octets[: curve.octets]), int.from_bytes(octets[curve.octets :])
    if not curve.contains(point):
        raise MeterKeyError(f"no point of {curve.name}; is a digit wrong?")
    return MeterKey(curve, point)


def _spki_head(curve: Curve) -> bytes:
    """Everything before the point: SEQUENCE { SEQUENCE { id-ecPublicKey, curve }, BIT STRING without unused bits }."""
    algorithm = _tlv(0x30, _oid(_EC_PUBLIC_KEY) + _oid(curve.oid))
    point_octets = 1 + 2 * curve.octets
    bits = b"\x03" + _length(point_octets + 1) + b"\x00"
    return b"\x30" + _length(len(algorithm) + len(bits) + point_octets) + algorithm + bits


def _tlv(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _length(len(content)) + content


def _length(octets: int) -> bytes:
    return bytes([octets]) if octets < 0x80 else b"\x81" + bytes([octets])


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    encoded = bytearray()
    for arc in (40 * first + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        encoded += bytes(reversed(septets))
    return _tlv(0x06, bytes(encoded))
