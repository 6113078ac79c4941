"""DeviceDescription: who answered and what it has, and the form in which it is kept over restarts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from drivers.device import DeviceKind
from drivers.sunspec.models import model_definition

METER_MODELS: Final = (201, 202, 203, 204, 211, 212, 213, 214)
INVERTER_MODELS: Final = (701, 101, 102, 103, 111, 112, 113)
STORAGE_MODELS: Final = (713, 802, 124)
MOST_MODELS: Final = 100

KEPT_VERSION: Final = 1
MOST_KEPT_BYTES: Final = 64 * 1024
"""A hundred models and as many notes are a tenth of this."""
_TEXTS: Final = ("address", "manufacturer", "model", "options", "version", "serial")


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model in a device's chain."""

    number: int
    address: int
    """Of its ID register."""
    length: int
    """Its L: registers after the header."""

    @property
    def label(self) -> str:
        """The official name; says so where the model is a vendor's own or unknown."""
        definition = model_definition(self.number)
        return "unknown or a vendor's own" if definition is None else definition.label


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """Who answered, and what it has. Texts are the device's own words, printable."""

    address: str
    unit: int
    base: int
    manufacturer: str
    model: str
    options: str
    version: str
    serial: str
    models: tuple[FoundModel, ...]
    phantoms: tuple[int, ...] = ()
    """Addresses of models that are there without the thing that they describe: storage models of an inverter without
    a battery, a second copy of a model in which nothing is implemented."""
    notes: tuple[str, ...]
    """What is unusual about its map, in sentences for a person."""

    @property
    def meter_id(self) -> str:
        """Names the physical device: another one under the same address has another."""
        return _meter_id(self.manufacturer, self.model, self.serial)

    @property
    def title(self) -> str:
        """Manufacturer and model, for a sentence."""
        return " ".join(part for part in (self.manufacturer, self.model) if part) or "a device without a name"

    def find(self, *numbers: int) -> FoundModel | None:
        """The first of these models that it has, in the order asked for; a phantom only where there is nothing else."""
        for phantom in (False, True):
            for number in numbers:
                for found in self.models:
                    if found.number == number and self.is_phantom(found) is phantom:
                        return found
        return None

    def is_phantom(self, found: FoundModel) -> bool:
        return found.address in self.phantoms

    @property
    def likely_kind(self) -> DeviceKind | None:
        """What it probably is, for ready configuration; None: nothing that we can use."""
        if self.find(*INVERTER_MODELS) is not None:
            storage = self.find(*STORAGE_MODELS)
            return DeviceKind.PV if storage is None or self.is_phantom(storage) else DeviceKind.BATTERY
        return DeviceKind.METER if self.find(*METER_MODELS) is not None else None


def _meter_id(*parts: str) -> str:
    return "/".join(part.replace("/", "_") or "-" for part in parts)


def identity_of(texts: Mapping[str, str]) -> str:
    """The meter_id that the texts of `discovery.read_identity` make."""
    return _meter_id(texts["manufacturer"], texts["model"], texts["serial"])


def remember(description: DeviceDescription) -> bytes:
    """A description as it is kept in a journal, for `recall`. The form is versioned."""
    return orjson.dumps(
        {
            "kept_version": KEPT_VERSION,
            **{name: getattr(description, name) for name in _TEXTS},
            "unit": description.unit,
            "base": description.base,
            "models": [[model.number, model.address, model.length] for model in description.models],
            "phantoms": description.phantoms,
            "notes": description.notes,
        }
    )


def recall(kept: bytes) -> DeviceDescription | None:
    """The description that `remember` made these bytes of; None when they are anything else: discover anew then."""
    if len(kept) > MOST_KEPT_BYTES:
        return None
    try:
        content: object = orjson.loads(kept)
        if not isinstance(content, dict) or content.get("kept_version") != KEPT_VERSION:
            return None
        texts = {name: _text(content[name]) for name in _TEXTS}
        models = tuple(FoundModel(*_words(model, 3)) for model in _entries(content["models"]))
        return DeviceDescription(
            **texts,
            unit=_word(content["unit"]),
            base=_word(content["base"]),
            models=models,
            phantoms=_words(content["phantoms"]),
            notes=tuple(_text(note) for note in _entries(content["notes"])),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a text: {value!r}")
    return value


def _word(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 0xFFFF:  # a bool is an int too
        raise ValueError(f"not a register's number: {value!r}")
    return value


def _entries(value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > 2 * MOST_MODELS:
        raise TypeError(f"not a list of this length: {value!r}")
    return value


def _words(value: object, count: int | None = None) -> tuple[int, ...]:
    words = tuple(_word(word) for word in _entries(value))
    if count is not None and len(words) != count:
        raise ValueError(f"{len(words)} instead of {count} numbers")
    return words
