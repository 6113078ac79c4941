"""From devices, samples and settings to the SiteView that the plan looks at; and safe mode, with its reason and dwell.

Pure: the controller hands in the statuses and the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import time
from typing import Final

from agent.config import ControlSettings, DeviceSettings, FrequencySettings, SiteSettings, zone_of
from agent.control.coming_back import ReturnPace
from agent.control.day import SunPace
from agent.control.day_watch import DaySettings
from agent.control.frequency import Curve, FrequencyReading, GridFrequency
from agent.control.losses import losses_of
from agent.control.needing import DefaultNeed
from agent.control.order import Now, Order
from agent.control.site import CarDay, Defaults, DeviceView, Held, Mandate, MeterView, Sharing, SiteLimits, SiteView
from agent.control.tally import Register
from drivers.device import DeviceKind, DeviceStatus, LinkState, Sample, SampleFlag, VehicleSession

NO_FREQUENCY: Final = GridFrequency()
_OF_A_SESSION: Final = tuple(field.name for field in fields(VehicleSession))
METER_STALE_S: Final = 5.0
"""SAFETY 8."""
SAFE_MODE_DWELL_S: Final = 30.0
"""After its reason has gone safe mode stays so long, so that a flickering reason does not flap the site."""


@dataclass(frozen=True, slots=True)
class SiteSettingsView:
    """What the configuration says, in the plan's units, made once."""

    limits: SiteLimits
    defaults: Defaults
    mandates: Mapping[str, Mandate]
    controllable: Mapping[str, DeviceSettings]
    meter_id: str | None
    meter_period_s: float
    curve: Curve
    pace: ReturnPace
    day: DaySettings
    sharing: Sharing = Sharing.LOSSES


def settings_view(
    site: SiteSettings,
    control: ControlSettings,
    frequency: FrequencySettings,
    devices: Sequence[DeviceSettings],
    sharing: Sharing = Sharing.LOSSES,
) -> SiteSettingsView:
    """The settings as the plan needs them."""
    meter_id = grid_meter_of(devices)
    return SiteSettingsView(
        limits=SiteLimits(
            import_limit_w=site.import_limit_w,
            export_limit_w=site.export_limit_w,
            phase_limit_w=site.fuse_a * site.nominal_voltage_v,
            phases=site.phases,
            difference_limit_w=site.phase_difference_a * site.nominal_voltage_v or None,
            house_reserve_w=site.house_reserve_w,
            discharge_permitted=site.discharge_permitted,
        ),
        defaults=Defaults(
            cars_wait=control.cars_by_default == "wait",
            battery_idle=control.battery_by_default == "idle",
            battery_minimum_soc_permille=control.battery_minimum_soc_percent * 10,
            answers_frequency=frequency.response,
            frequency_reserve_permille=frequency.reserve_percent * 10,
        ),
        mandates={
            m.token_id: Mandate(
                token_id=m.token_id,
                minimum_soc_permille=m.minimum_soc_percent * 10,
                least_price_micro_per_kwh=m.least_price_micro_per_kwh,
                issuers=frozenset(m.issuers),
                currency=m.currency,
            )
            for m in control.mandate
        },
        controllable={d.id: d for d in devices if d.kind is not DeviceKind.METER},
        meter_id=meter_id,
        meter_period_s=next((d.period_s for d in devices if d.id == meter_id), 0.0),
        pace=ReturnPace(
            delay_most_s=control.return_delay_most_s,
            ramp_permille_per_minute=control.return_ramp_percent_per_minute * 10,
        ),
        day=_day_settings(site, control, devices),
        curve=Curve(
            nominal_millihertz=site.nominal_frequency_hz * 1000,
            dead_band_millihertz=frequency.dead_band_millihertz,
            droop_permille=round(frequency.droop_percent * 10),
        ),
        sharing=sharing,
    )


def _day_settings(site: SiteSettings, control: ControlSettings, devices: Sequence[DeviceSettings]) -> DaySettings:
    day = DaySettings(
        zone=zone_of(site.timezone),
        pace=SunPace(
            start_after_s=control.surplus_start_after_s,
            stop_after_s=control.surplus_stop_after_s,
            least_s=control.surplus_least_s,
        ),
    )
    for device in devices:
        day = with_day_of(day, device)
    return day


def with_day_of(day: DaySettings, device: DeviceSettings) -> DaySettings:
    """The days with another device's."""
    need = DefaultNeed(
        departure=None if device.departure_time is None else time.fromisoformat(device.departure_time),
        zone=day.zone,
        energy_wh=device.departure_energy_wh,
    )
    days = day.days if device.day is None else {**day.days, device.id: CarDay(device.day)}
    return replace(day, days=days, needs={**day.needs, device.id: need})


def grid_meter_of(devices: Sequence[DeviceSettings]) -> str | None:
    """The meter at the connection: the one without a parent that most devices are behind; None where there is none."""
    by_id = {d.id: d for d in devices}
    behind = {d.id: 0 for d in devices if d.kind is DeviceKind.METER and d.parent is None}
    for device in devices:
        top = device
        while top.parent is not None:
            top = by_id[top.parent]
        if top.id in behind and top is not device:
            behind[top.id] += 1
    return max(sorted(behind), key=lambda name: behind[name], default=None)


def view_site(
    settings: SiteSettingsView,
    statuses: Mapping[str, DeviceStatus],
    held: Callable[[str], Held | None],
    now: Now,
    monotonic_s: float,
    *,
    orders: tuple[Order, ...] = (),
    stop: str | None = None,
    safe_mode: str | None = None,
    frequency: GridFrequency = NO_FREQUENCY,
) -> SiteView:
    """The snapshot for one plan."""
    return SiteView(
        now=now,
        limits=settings.limits,
        defaults=settings.defaults,
        devices={
            name: _view_device(settings.controllable[name], statuses[name], held(name), monotonic_s)
            for name in settings.controllable
            if name in statuses
        },
        meter=_view_meter(settings, statuses, monotonic_s),
        orders=orders,
        mandates=settings.mandates,
        stop=stop,
        islanded=is_islanded(statuses.values()),
        safe_mode=safe_mode,
        frequency=frequency,
        sharing=settings.sharing,
    )


def frequency_readings(settings: SiteSettingsView, statuses: Mapping[str, DeviceStatus]) -> list[FrequencyReading]:
    """What devices measure of the public grid's frequency, the grid meter's first."""
    names = sorted(statuses, key=lambda name: (name != settings.meter_id, name))
    samples = [statuses[name].last_sample for name in names if statuses[name].link is LinkState.ONLINE]
    return [
        FrequencyReading(sample.frequency_millihertz, sample.monotonic_s)
        for sample in samples
        if sample is not None
        and sample.frequency_millihertz is not None
        and not sample.flags & (SampleFlag.ISLANDED | SampleFlag.QUEUED | SampleFlag.ESTIMATED)
    ]


def _view_device(settings: DeviceSettings, status: DeviceStatus, held: Held | None, monotonic_s: float) -> DeviceView:
    sample, car = status.last_sample, status.vehicle
    soc_age_s = None
    if car is not None and car.state_of_charge_monotonic_s is not None:
        soc_age_s = max(0.0, monotonic_s - car.state_of_charge_monotonic_s)
    phases: tuple[int, ...] = tuple(settings.phases)
    if "phases" not in settings.model_fields_set and status.capabilities is not None:
        phases = status.capabilities.phases
    return DeviceView(
        device_id=settings.id,
        kind=settings.kind,
        online=status.link is LinkState.ONLINE,
        capabilities=status.capabilities,
        power_w=sample.power_w if sample is not None else None,
        sample_age_s=max(0.0, monotonic_s - sample.monotonic_s) if sample is not None else 0.0,
        state_of_charge_permille=sample.state_of_charge_permille if sample is not None else None,
        state_of_charge_age_s=soc_age_s,
        vehicle=session_of(car),
        held=held,
        follows=status.follows,
        phases=phases,
        rated_import_w=settings.rated_import_w,
        rated_export_w=settings.rated_export_w,
        fallback_import_w=settings.fallback_import_w,
        fallback_export_w=settings.fallback_export_w,
        losses=losses_of(settings.kind, settings.efficiency_percent, settings.fixed_loss_w, settings.wear_wh_per_kwh),
    )


def session_of(car: VehicleSession | None) -> VehicleSession | None:
    """The session without what a driver adds of its own: the record of decisions reads back what a view says it is."""
    if car is None or type(car) is VehicleSession:
        return car
    return VehicleSession(**{name: getattr(car, name) for name in _OF_A_SESSION})


def _view_meter(
    settings: SiteSettingsView, statuses: Mapping[str, DeviceStatus], monotonic_s: float
) -> MeterView | None:
    status = statuses.get(settings.meter_id) if settings.meter_id is not None else None
    if status is None or status.last_sample is None or status.last_sample.power_w is None:
        return None
    sample = status.last_sample
    stale_s = max(METER_STALE_S, 2 * settings.meter_period_s)
    if monotonic_s - sample.monotonic_s > stale_s or sample.flags & (SampleFlag.QUEUED | SampleFlag.ESTIMATED):
        return None
    assert sample.power_w is not None
    bound_w = 4 * settings.limits.phase_limit_w * settings.limits.phases
    if abs(sample.power_w) > bound_w:
        return None  # Beyond four times the fuse nothing is measured, something is broken.
    return MeterView(power_w=sample.power_w, phase_power_w=sample.phase_power_w)


def is_islanded(statuses: Iterable[DeviceStatus]) -> bool:
    """Whether any device that answers says that the public grid is not there (SAFETY 6)."""
    return any(
        status.last_sample is not None
        and status.link is LinkState.ONLINE
        and bool(status.last_sample.flags & SampleFlag.ISLANDED)
        for status in statuses
    )


def register_of(sample: Sample) -> Register | None:
    """The net register of a sample; None where it gives none."""
    imported, exported = sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours
    if imported is None and exported is None:
        return None
    return Register(sample.meter_id, (imported or 0) - (exported or 0))


@dataclass(frozen=True, slots=True)
class SafeMode:
    """Why the site looks after itself only; `reason` None: it does not."""

    reason: str | None = None
    gone_since_s: float | None = None
    """Since when the reason has been gone; None while it stands."""


def step_safe_mode(mode: SafeMode, reason: str | None, monotonic_s: float) -> SafeMode:
    """Safe mode after one look: entered at once, left a dwell after its reason has gone."""
    if reason is not None:
        return SafeMode(reason)
    if mode.reason is None:
        return mode
    if mode.gone_since_s is None:
        return SafeMode(mode.reason, monotonic_s)
    if monotonic_s - mode.gone_since_s >= SAFE_MODE_DWELL_S:
        return SafeMode()
    return mode
