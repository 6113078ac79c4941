"""The whole configuration file: its sections together, and what must hold between them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from agent.config.bounds_settings import BoundsSettings
from agent.config.device_settings import DeviceSettings
from agent.config.input_settings import InputSettings
from agent.config.settings import (
    ControlSettings,
    EvidenceSettings,
    FeedSettings,
    FrequencySettings,
    GatewaySettings,
    OcppSettings,
    PlatformSettings,
    SettlementSettings,
    SiteSettings,
    TokenSettings,
    WebSettings,
)
from agent.config.shares import shares_beyond_fuse
from agent.config.values import Section, fault, is_loopback
from drivers.device import DeviceKind


class Settings(Section):
    """The whole file."""

    gateway: GatewaySettings = GatewaySettings()
    site: SiteSettings = SiteSettings()
    token: TokenSettings
    evidence: EvidenceSettings = EvidenceSettings()
    platform: PlatformSettings | None = None
    control: ControlSettings = ControlSettings()
    bounds: BoundsSettings = BoundsSettings()
    frequency: FrequencySettings = FrequencySettings()
    feeds: FeedSettings = FeedSettings()
    settlement: SettlementSettings = SettlementSettings()
    ocpp: OcppSettings = OcppSettings()
    web: WebSettings = WebSettings()
    device: list[DeviceSettings] = Field([], max_length=200)
    input: list[InputSettings] = Field([], max_length=32)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        by_id = {d.id: d for d in self.device}
        if len(by_id) != len(self.device):
            twice = sorted({d.id for d in self.device if [o.id for o in self.device].count(d.id) > 1})
            last = max(i for i, d in enumerate(self.device) if d.id == twice[0])
            raise fault(f"device ids must differ; more than once: {', '.join(twice)}", "device", last, "id")
        for i, wired in enumerate(self.input):
            for known in self.input[:i]:
                if wired.name == known.name or (wired.chip, wired.line) == (known.chip, known.line):
                    raise fault(f"inputs {known.name} and {wired.name} are the same one: name, or chip and line",
                                "input", i, "line")  # fmt: skip
        for i, d in enumerate(self.device):
            why = _wrong_path(d, by_id)
            if why:
                raise fault(why, "device", i, "parent")
            if d.driver == "ocpp" and d.security_profile == 3 and not self.ocpp.has_tls:
                why = "security_profile 3 needs TLS: set certificate_file or certificate_names of [ocpp]"
                raise fault(why, "device", i, "security_profile")
            proven = d.password_secret is not None or d.security_profile == 3
            if d.driver == "ocpp" and not proven and not is_loopback(self.ocpp.listen):
                raise fault(
                    f"device {d.id} has no password_secret, and [ocpp] listens on {self.ocpp.listen}: "
                    "anybody on that network could pretend to be this charger",
                    "device", i, "password_secret",
                )  # fmt: skip
            if d.driver == "ocpp" and self.ocpp.listen == self.web.listen:
                raise fault(f"{self.ocpp.listen} is [web] listen too; chargers need a port of their own",
                             "ocpp", "listen")  # fmt: skip
        for i, d in enumerate(self.device):
            for other in self.device[:i]:
                same_bus = d.address is not None and (d.address, d.unit) == (other.address, other.unit)
                same_evse = d.charger_id is not None and (d.charger_id, d.evse_id) == (other.charger_id, other.evse_id)
                if same_bus or same_evse:
                    why = f"devices {other.id} and {d.id} are the same one: same address and unit, or EVSE"
                    raise fault(why, "device", i, "address" if same_bus else "charger_id")
        site = self.site
        beyond = shares_beyond_fuse(
            site.fuse_a * site.nominal_voltage_v, site.phases, site.house_reserve_w, self.device
        )
        if beyond:
            last = max(i for i, d in enumerate(self.device) if d.fallback_import_w)
            raise fault(beyond, "device", last, "fallback_import_w")
        return self


def _wrong_path(device: DeviceSettings, by_id: dict[str, DeviceSettings]) -> str:
    """Empty when parents exist and are meters, there is no circle, and no path has two settlement points; else why."""
    seen = {device.id}
    settled = [device.id] if device.settled else []
    here = device
    while here.parent is not None:
        if here.parent not in by_id:
            return f"device {here.id}: parent {here.parent} is no device of this file"
        here = by_id[here.parent]
        if here.id in seen:
            return f"device {device.id}: its parents form a circle at {here.id}"
        if here.kind is not DeviceKind.METER:
            return f"device {device.id}: parent {here.id} is a {here.kind}; only a meter has devices behind it"
        seen.add(here.id)
        if here.settled:
            settled.append(here.id)
    if len(settled) > 1:
        return f"energy would be settled twice: {' and '.join(settled)} are on one path and both settled"
    return ""
