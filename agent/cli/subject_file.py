"""The file in which people write what an identity is about: owner, operator, place, ratings, devices. TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from agent.evidence.cose import VerifyKey
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem
from agent.identity.orders import commitment_of
from agent.identity.subject import COARSE_GRID, DeviceIdentity, Location, Party, Rating, Subject, rounded


class SubjectError(IdentityError):
    """The file cannot be used. Says which key of it, and why."""


def read_subject(file: Path, device_keys: Mapping[str, VerifyKey]) -> Subject:
    """A subject as people write it, TOML. Files in it are relative to it. Raises SubjectError."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        return _subject_of(_Table(content, "", file.parent), device_keys)
    except OSError as error:
        raise SubjectError(f"{error.filename or file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, IdentityError) as error:
        raise SubjectError(f"{file}: {error}") from error


class _Table:
    """One table of a subject: every key is asked for once, and none may be left over."""

    def __init__(self, content: object, name: str, folder: Path) -> None:
        if not isinstance(content, dict):
            raise ValueError(f"{name}: not a table")
        self._left = dict(content)
        self._name = name
        self._folder = folder

    def text(self, key: str, default: str | None = None) -> str:
        value = self._left.pop(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{self._name}{key} is missing, or not text")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        value = self._left.pop(key, default)
        if type(value) is not int:
            raise ValueError(f"{self._name}{key} is missing, or not a whole number")
        return value

    def content_of(self, key: str) -> bytes | None:
        """Of the file that is named; None when none is."""
        named = self.text(key, "")
        return (self._folder / named).read_bytes() if named else None

    def table(self, key: str) -> _Table:
        return _Table(self._left.pop(key, None), f"{self._name}{key}.", self._folder)

    def tables(self, key: str) -> list[_Table]:
        value = self._left.pop(key, [])
        if not isinstance(value, list):
            raise ValueError(f"{self._name}{key} is not a list of tables: write [[{key}]]")
        return [_Table(item, f"{self._name}{key} {place}: ", self._folder) for place, item in enumerate(value, 1)]

    def end(self) -> None:
        if self._left:
            raise ValueError(f"{self._name}{sorted(self._left)[0]} is not known here")


def _subject_of(table: _Table, device_keys: Mapping[str, VerifyKey]) -> Subject:
    owner, operator = (_party(table.table(name), name) for name in ("owner", "operator"))
    place = table.text("location", "")
    grid = table.number("location_grid_microdegrees", COARSE_GRID)
    location: Location | None = rounded(place, grid) if place else None
    ratings = tuple(_rating(item) for item in table.tables("rating"))
    devices = tuple(sorted((_device(item, device_keys) for item in table.tables("device")), key=lambda d: d.device_id))
    table.end()
    return Subject(owner=owner, operator=operator, location=location, ratings=ratings, devices=devices)


def _party(table: _Table, name: str) -> Party:
    content = table.content_of("key_file")
    if content is None:
        raise ValueError(f"{name}.key_file is missing: the public key that speaks for the {name}, PEM")
    recovery = table.content_of("recovery_key_file")
    party = Party(
        table.text("name"),
        verify_key_from_pem(content, what=f"key of the {name}"),
        None if recovery is None else commitment_of(verify_key_from_pem(recovery, what=f"recovery key of the {name}")),
    )
    table.end()
    return party


def _rating(table: _Table) -> Rating:
    rating = Rating(
        device_id=table.text("device", "") or None,
        name=table.text("name"),
        value=table.number("value"),
        unit=table.text("unit"),
        certificate=table.text("certificate"),
    )
    table.end()
    return rating


def _device(table: _Table, keys: Mapping[str, VerifyKey]) -> DeviceIdentity:
    device_id = table.text("id")
    meter_key, certificate = table.content_of("meter_key_file"), table.content_of("charger_certificate_file")
    device = DeviceIdentity(
        device_id=device_id,
        serial_number=table.text("serial_number", ""),
        key=keys.get(device_id),
        meter_key=None if meter_key is None else _public_key_der(meter_key, device_id),
        charger_certificate=None if certificate is None else _fingerprint(certificate, device_id),
    )
    table.end()
    return device


def _public_key_der(pem: bytes, device_id: str) -> bytes:
    """Meters sign on curves that evidence does not: any key that can be read will do."""
    try:
        return load_pem_public_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"meter key of {device_id}: no public key in PEM: {str(error)[:80]}") from error


def _fingerprint(pem: bytes, device_id: str) -> bytes:
    try:
        return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())
    except ValueError as error:
        raise ValueError(f"certificate of {device_id}: no certificate in PEM: {str(error)[:80]}") from error
