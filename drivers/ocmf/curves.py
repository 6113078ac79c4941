"""The curves that meters sign with, by their names in OCMF and their OIDs; arithmetic for the two of 192 bits.

Verification holds no secret, so plain integers do: libraries have dropped the 192-bit curves or never had them, and
meters with them are in the field for their eight years of calibration. Numbers: SEC 2 version 1, sections 2.5 and 2.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

Point: TypeAlias = tuple[int, int]
_Jacobian: TypeAlias = tuple[int, int, int]
_INFINITY: Final[_Jacobian] = (1, 1, 0)


@dataclass(frozen=True, slots=True)
class Weierstrass:
    """y^2 = x^3 + ax + b over the integers modulo p, with a base point of prime order n."""

    p: int
    a: int
    b: int
    base: Point
    n: int

    def contains(self, point: Point) -> bool:
        """Whether it is a point of the curve, other than infinity."""
        x, y = point
        return 0 <= x < self.p and 0 <= y < self.p and (y * y - (x * x * x + self.a * x + self.b)) % self.p == 0

    def verifies(self, key: Point, digest: bytes, r: int, s: int) -> bool:
        """ECDSA (SEC 1 section 4.1.4)."""
        if not (0 < r < self.n and 0 < s < self.n):
            return False
        e = int.from_bytes(digest) >> max(0, 8 * len(digest) - self.n.bit_length())
        w = pow(s, -1, self.n)
        x, _, z = self._combine(e * w % self.n, r * w % self.n, key)
        if z == 0:
            return False
        return x * pow(z, -2, self.p) % self.p % self.n == r

    def _combine(self, u: int, v: int, key: Point) -> _Jacobian:
        """u times the base point plus v times the key (Shamir's trick)."""
        base, other = (*self.base, 1), (*key, 1)
        both = self._add(base, other)
        found = _INFINITY
        for bit in range(self.n.bit_length() - 1, -1, -1):
            found = self._double(found)
            match u >> bit & 1, v >> bit & 1:
                case 1, 1:
                    found = self._add(found, both)
                case 1, 0:
                    found = self._add(found, base)
                case 0, 1:
                    found = self._add(found, other)
        return found

    def _double(self, point: _Jacobian) -> _Jacobian:
        x, y, z = point
        if z == 0 or y == 0:
            return _INFINITY
        p, yy = self.p, y * y % self.p
        s = 4 * x * yy % p
        m = (3 * x * x + self.a * pow(z, 4, p)) % p
        doubled = (m * m - 2 * s) % p
        return doubled, (m * (s - doubled) - 8 * yy * yy) % p, 2 * y * z % p

    def _add(self, one: _Jacobian, two: _Jacobian) -> _Jacobian:
        if one[2] == 0:
            return two
        if two[2] == 0:
            return one
        p, (x1, y1, z1), (x2, y2, z2) = self.p, one, two
        zz1, zz2 = z1 * z1 % p, z2 * z2 % p
        u1, u2 = x1 * zz2 % p, x2 * zz1 % p
        s1, s2 = y1 * zz2 * z2 % p, y2 * zz1 * z1 % p
        h, r = (u2 - u1) % p, (s2 - s1) % p
        if h == 0:
            return self._double(one) if r == 0 else _INFINITY
        hh = h * h % p
        hhh, v = h * hh % p, u1 * hh % p
        x = (r * r - hhh - 2 * v) % p
        return x, (r * (v - x) - s1 * hhh) % p, h * z1 * z2 % p


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: in the library, or with its own numbers."""

    name: str
    """As OCMF spells it, in lower case and brainpool without P."""
    oid: str
    octets: int
    """Of one coordinate; and of r and s, for all curves here."""
    library: Callable[[], ec.EllipticCurve] | None
    own: Weierstrass | None = None

    def contains(self, point: Point) -> bool:
        """Whether it is a point of the curve."""
        if self.own is not None:
            return self.own.contains(point)
        try:
            self._public_key(point)
        except ValueError:
            return False
        return True

    def verifies(self, key: Point, digest: bytes, hash_name: str, r: int, s: int) -> bool:
        """ECDSA over a digest that was made with `hash_name` (of HASHES). `key` is a point of the curve."""
        if self.own is not None:
            return self.own.verifies(key, digest, r, s)
        if r <= 0 or s <= 0:
            return False
        signature = encode_dss_signature(r, s)
        try:
            self._public_key(key).verify(signature, digest, ec.ECDSA(Prehashed(HASHES[hash_name]())))
        except InvalidSignature:
            return False
        return True

    def _public_key(self, point: Point) -> ec.EllipticCurvePublicKey:
        assert self.library is not None
        return ec.EllipticCurvePublicNumbers(*point, self.library()).public_key()


HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}

_SECP192K1: Final = Weierstrass(
    p=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFEE37,
    a=0,
    b=3,
    base=(0xDB4FF10EC057E9AE26B07D0280B7F4341DA5D1B1EAE06C7D, 0x9B2F2F6D9C5628A7844163D015BE86344082AA88D95E2F9D),
    n=0xFFFFFFFFFFFFFFFFFFFFFFFE26F2FC170F69466A74DEFD8D,
)
_SECP192R1: Final = Weierstrass(
    p=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFFFFFFFFFFFF,
    a=0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFFFFFFFFFFFC,
    b=0x64210519E59C80E70FA7E9AB72243049FEB8DEECC146B9B1,
    base=(0x188DA80EB03090F67CBF20EB43A18800F4FF0AFD82FF1012, 0x07192B95FFC8DA78631011ED6B24CDD573F977A11E794811),
    n=0xFFFFFFFFFFFFFFFFFFFFFFFF99DEF836146BC9B1B4D22831,
)

CURVES: Final = {
    curve.name: curve
    for curve in (
        Curve("secp192k1", "1.3.132.0.31", 24, None, _SECP192K1),
        Curve("secp192r1", "1.2.840.10045.3.1.1", 24, None, _SECP192R1),
        Curve("secp256k1", "1.3.132.0.10", 32, ec.SECP256K1),
        Curve("secp256r1", "1.2.840.10045.3.1.7", 32, ec.SECP256R1),
        Curve("secp384r1", "1.3.132.0.34", 48, ec.SECP384R1),
        Curve("secp521r1", "1.3.132.0.35", 66, ec.SECP521R1),
        Curve("brainpool256r1", "1.3.36.3.3.2.8.1.1.7", 32, ec.BrainpoolP256R1),
        Curve("brainpool384r1", "1.3.36.3.3.2.8.1.1.11", 48, ec.BrainpoolP384R1),
        Curve("brainpool512r1", "1.3.36.3.3.2.8.1.1.13", 64, ec.BrainpoolP512R1),
    )
}
_SYNONYMS: Final = {
    "prime192v1": "secp192r1",
    "nistp192": "secp192r1",
    "prime256v1": "secp256r1",
    "nistp256": "secp256r1",
    "nistp384": "secp384r1",
    "nistp521": "secp521r1",
}


def curve_named(name: str) -> Curve | None:
    """By any spelling that is met: case does not matter, brainpool comes with and without P."""
    plain = name.casefold().replace("brainpoolp", "brainpool")
    return CURVES.get(_SYNONYMS.get(plain, plain))
