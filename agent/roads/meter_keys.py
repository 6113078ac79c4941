"""The registry of meters' keys: what the installer wrote to a file, and said the fingerprint of, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.config import DeviceSettings
from drivers.ocmf.errors import MeterKeyError
from drivers.ocmf.keys import MOST_TEXT, MeterKey, key_from_der, key_from_text

_DER: Final = b"\x30"


def registered_key(device: DeviceSettings) -> MeterKey | None:
    """The key of the meter that signs for this device; None where the configuration names none.

    Raises MeterKeyError: a key that is not the one of `meter_key_sha256` is no key at all.
    """
    if device.meter_key_file is None:
        return None
    key = _read(device.meter_key_file)
    if device.meter_key_sha256 is not None and key.fingerprint.hex() != device.meter_key_sha256.lower():
        raise MeterKeyError(
            f"{device.meter_key_file}: its key has SHA-256 {key.fingerprint.hex()}, and meter_key_sha256 is "
            f"{device.meter_key_sha256.lower()}: compare both with the meter's own"
        )
    return key


def _read(path: Path) -> MeterKey:
    try:
        with path.open("rb") as file:
            octets = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise MeterKeyError(f"{path}: {error.strerror}") from error
    try:
        if octets.startswith(_DER) and not octets.isascii():
            return key_from_der(octets)
        return key_from_text(octets.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MeterKeyError(f"{path}: neither DER nor text") from error
    except MeterKeyError as error:
        raise MeterKeyError(f"{path}: {error}") from error
