"""What a charger says it is made of: components and variables (OCPP 2.0.1 part 2, B and N), kept and queryable. Pure.

It comes in parts (NotifyReport), by single answers (GetVariables, SetVariables) and with events (NotifyEvent). All that
a charger can make grow is bounded.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

import orjson

from drivers.ocpp.errors import quoted
from drivers.ocpp.schemas import Json, JsonObject

MOST_VARIABLES: Final = 4000
MOST_MONITORS: Final = 500
MOST_EVENTS: Final = 100
MOST_REPORTS: Final = 4
"""Reports that arrive at one time."""
LONGEST_KEPT: Final = 4_000_000
"""Bytes; what claims to be longer than this was not kept by us."""
ALERT: Final = "Alerting"
SECRET_VARIABLES: Final = frozenset({"basicauthpassword"})
"""Write-only by the specification; a charger that reports one all the same is not repeated."""


class VariableKey(NamedTuple):
    """Names one variable. Empty and 0 where the charger gives none; names compare without regard to case."""

    component: str
    component_instance: str
    evse_id: int
    connector_id: int
    variable: str
    variable_instance: str

    def __str__(self) -> str:
        component = f"{self.component}[{self.component_instance}]" if self.component_instance else self.component
        where = f"#{self.evse_id}" if self.evse_id else ""
        where += f".{self.connector_id}" if self.connector_id else ""
        variable = f"{self.variable}[{self.variable_instance}]" if self.variable_instance else self.variable
        return f"{component}{where}/{variable}"

    @property
    def folded(self) -> VariableKey:
        return VariableKey(
            self.component.casefold(), self.component_instance.casefold(), self.evse_id, self.connector_id,
            self.variable.casefold(), self.variable_instance.casefold(),
        )  # fmt: skip

    def on_wire(self) -> JsonObject:
        """`component` and `variable` of a request."""
        component: JsonObject = {"name": self.component}
        if self.component_instance:
            component["instance"] = self.component_instance
        if self.evse_id:
            evse: JsonObject = {"id": self.evse_id}
            if self.connector_id:
                evse["connectorId"] = self.connector_id
            component["evse"] = evse
        variable: JsonObject = {"name": self.variable}
        if self.variable_instance:
            variable["instance"] = self.variable_instance
        return {"component": component, "variable": variable}


@dataclass(slots=True)
class Variable:
    """One variable, as reported last."""

    key: VariableKey
    attributes: dict[str, JsonObject] = field(default_factory=dict)
    """Actual, Target, MinSet, MaxSet -> value, mutability, as the charger wrote them."""
    characteristics: JsonObject = field(default_factory=dict)

    def as_json(self) -> JsonObject:
        actual = self.attributes.get("Actual", {})
        return {
            "name": str(self.key),
            "value": actual.get("value"),
            "mutability": actual.get("mutability"),
            "unit": self.characteristics.get("unit"),
            "type": self.characteristics.get("dataType"),
            "values": self.characteristics.get("valuesList"),
        }


@dataclass(slots=True)
class _Report:
    full: bool
    parts: set[int] = field(default_factory=set)
    last: int | None = None
    named: set[VariableKey] = field(default_factory=set)


class Alert(NamedTuple):
    """An event that somebody should hear of."""

    text: str
    evse_id: int
    """0: the charger itself."""
    cleared: bool


class DeviceModel:
    """The device model of one charger."""

    def __init__(self) -> None:
        self._variables: dict[VariableKey, Variable] = {}
        self._reports: OrderedDict[int, _Report] = OrderedDict()
        self.monitors: dict[int, JsonObject] = {}
        """By id: what is watched, as reported or confirmed."""
        self.events: deque[JsonObject] = deque(maxlen=MOST_EVENTS)
        self.generated_at: str = ""
        """When the last whole report was made, by the charger's clock."""

    def __len__(self) -> int:
        return len(self._variables)

    def variables(self, text: str = "") -> list[Variable]:
        """Those whose name contains the text (any case), in order."""
        wanted = text.casefold()
        found = [v for v in self._variables.values() if wanted in str(v.key).casefold()]
        return sorted(found, key=lambda variable: variable.key.folded)

    def value(self, component: str, variable: str) -> str | None:
        """Of the charger itself (no EVSE, no instance); None where it was never told."""
        found = self._variables.get(VariableKey(component, "", 0, 0, variable, "").folded)
        value = None if found is None else found.attributes.get("Actual", {}).get("value")
        return None if value is None else str(value)

    def expect(self, request_id: int, *, full: bool) -> None:
        """A report was asked for. `full`: it names everything, so what it leaves out is gone."""
        self._reports[request_id] = _Report(full)
        while len(self._reports) > MOST_REPORTS:
            self._reports.popitem(last=False)

    # --- what the charger says

    def take_report(self, payload: JsonObject) -> bool:
        """NotifyReport: one part. Whether it completed its report."""
        request_id, number = int(cast(int, payload["requestId"])), int(cast(int, payload["seqNo"]))
        report = self._reports.get(request_id)
        if report is None:  # asked for by somebody before us, or sent unasked
            self.expect(request_id, full=False)
            report = self._reports[request_id]
        for entry in cast(list[JsonObject], payload.get("reportData", [])):
            key = key_of(entry)
            report.named.add(key.folded)
            self._take(key, entry)
        if len(report.parts) < MOST_VARIABLES:
            report.parts.add(number)
        if not payload.get("tbc", False):
            report.last = number
        if report.last is None or len([part for part in report.parts if part <= report.last]) <= report.last:
            return False
        del self._reports[request_id]
        self.generated_at = str(payload["generatedAt"])
        if report.full and report.named:
            self._variables = {key: v for key, v in self._variables.items() if key in report.named}
        return True

    def take_value(self, key: VariableKey, value: str, attribute: str = "Actual") -> None:
        """A value that the charger told or took."""
        known = self._variables.get(key.folded)
        if known is None:
            if len(self._variables) >= MOST_VARIABLES:
                return
            known = self._variables[key.folded] = Variable(key)
        if key.variable.casefold() not in SECRET_VARIABLES:
            known.attributes.setdefault(attribute, {})["value"] = value

    def take_events(self, payload: JsonObject) -> list[Alert]:
        """NotifyEvent (N07). What somebody should hear of."""
        told: list[Alert] = []
        for event in cast(list[JsonObject], payload["eventData"]):
            key, value = key_of(event), str(event.get("actualValue", ""))
            self.take_value(key, value)
            cleared = bool(event.get("cleared", False))
            self.events.append(
                {
                    "timestamp": event["timestamp"],
                    "name": str(key),
                    "value": value[:200],
                    "trigger": event["trigger"],
                    "cleared": cleared,
                    "text": str(event.get("techInfo", ""))[:200],
                }
            )
            if event["trigger"] == ALERT:
                how = "is well again with" if cleared else "is"
                text = f"{quoted(str(key), 120)} {how} {quoted(value, 60)} {quoted(event.get('techInfo', ''), 100)}"
                if "severity" in event:
                    text += f", severity {event['severity']}"
                told.append(Alert(text, key.evse_id, cleared))
        return told

    def take_monitors(self, payload: JsonObject) -> None:
        """NotifyMonitoringReport (N02): one part."""
        for entry in cast(list[JsonObject], payload.get("monitor", [])):
            name = str(key_of(entry))
            for monitor in cast(list[JsonObject], entry["variableMonitoring"]):
                self.take_monitor(int(cast(int, monitor["id"])), {**monitor, "name": name})

    def take_monitor(self, monitor_id: int, monitor: JsonObject) -> None:
        """One monitor that the charger has."""
        if monitor_id in self.monitors or len(self.monitors) < MOST_MONITORS:
            self.monitors[monitor_id] = monitor

    # --- over restarts

    def encode(self) -> bytes:
        """What must survive a restart."""
        variables = [[list(v.key), v.attributes, v.characteristics] for v in self._variables.values()]
        kept = {
            "generated_at": self.generated_at,
            "variables": variables,
            "monitors": [[number, monitor] for number, monitor in self.monitors.items()],
            "events": list(self.events),
        }
        return zlib.compress(orjson.dumps(kept))

    def restore(self, remembered: bytes) -> None:
        """Go on from what `encode` gave. Raises ValueError when it is damaged; nothing has changed then."""
        try:
            unpacker = zlib.decompressobj()
            kept = orjson.loads(unpacker.decompress(remembered, LONGEST_KEPT))
            variables = [
                Variable(VariableKey(*key), attributes, characteristics)
                for key, attributes, characteristics in kept["variables"]
            ]
            folded = {variable.key.folded: variable for variable in variables}
            monitors = {int(number): dict(monitor) for number, monitor in kept["monitors"]}
            events, generated_at = [dict(event) for event in kept["events"]], str(kept["generated_at"])
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise ValueError(f"the kept device model is damaged: {error}") from error
        self._variables, self.monitors, self.generated_at = folded, monitors, generated_at
        self.events.extend(events)

    # --- inside

    def _take(self, key: VariableKey, entry: Mapping[str, Json]) -> None:
        known = self._variables.get(key.folded)
        if known is None:
            if len(self._variables) >= MOST_VARIABLES:
                return
            known = self._variables[key.folded] = Variable(key)
        for attribute in cast(list[JsonObject], entry["variableAttribute"]):
            told: JsonObject = {name: attribute[name] for name in ("value", "mutability") if name in attribute}
            if key.variable.casefold() in SECRET_VARIABLES:
                told.pop("value", None)
            known.attributes[str(attribute.get("type", "Actual"))] = told
        if "variableCharacteristics" in entry:
            known.characteristics = cast(JsonObject, entry["variableCharacteristics"])


def key_of(entry: Mapping[str, Json]) -> VariableKey:
    """The variable that an entry of a report, result or event is about."""
    component = cast(dict[str, Json], entry["component"])
    variable = cast(dict[str, Json], entry["variable"])
    evse = cast(dict[str, int], component.get("evse", {}))
    return VariableKey(
        str(component["name"]),
        str(component.get("instance", "")),
        int(evse.get("id", 0)),
        int(evse.get("connectorId", 0)),
        str(variable["name"]),
        str(variable.get("instance", "")),
    )


def parse_key(text: str) -> VariableKey:
    """Of `Component[instance]#evse.connector/Variable[instance]`, as `str(key)` writes it. Raises ValueError."""
    component, slash, variable = text.partition("/")
    component, _, where = component.partition("#")
    evse, _, connector = where.partition(".")
    (name, instance), (variable_name, variable_instance) = _instance(component), _instance(variable)
    if not slash or not name or not variable_name:
        raise ValueError(f"{quoted(text)} is no variable; write Component/Variable, as in SmartChargingCtrlr/RateUnit")
    if len(name) > 50 or len(variable_name) > 50 or len(instance) > 50 or len(variable_instance) > 50:
        raise ValueError(f"{quoted(text)}: names have at most 50 characters")
    return VariableKey(name, instance, int(evse or 0), int(connector or 0), variable_name, variable_instance)


def _instance(text: str) -> tuple[str, str]:
    name, bracket, rest = text.partition("[")
    return (name, rest.removesuffix("]")) if bracket else (text, "")
