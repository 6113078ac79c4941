"""Where we take more than the schemas allow, so that one odd value does not cost the good ones beside it.

A charger whose meter value has a measurand, phase, location or context of a later version, or of its maker's own, would
have the whole message refused, registers and all, and would send it again for ever. Those four enumerations are text of
bounded length for us; `meter_values.py` leaves out what it does not know, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from drivers.ocpp.schemas import JsonObject

LONGEST_NAME: Final = 50
"""As the longest open enumerations of the specification (identifierString[50])."""
_MESSAGES: Final = frozenset({"TransactionEventRequest", "MeterValuesRequest"})
_OPEN: Final = ("MeasurandEnumType", "PhaseEnumType", "LocationEnumType", "ReadingContextEnumType")


def loosened(message: str, schema: JsonObject) -> JsonObject:
    """The schema that a message is held to: the specification's own, but for the enumerations of a SampledValue."""
    definitions = schema.get("definitions")
    if message not in _MESSAGES or not isinstance(definitions, dict):
        return schema
    loose: JsonObject = {name: {"type": "string", "maxLength": LONGEST_NAME} for name in _OPEN if name in definitions}
    return {**schema, "definitions": {**definitions, **loose}}
