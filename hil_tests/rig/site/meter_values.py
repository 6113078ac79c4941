"""What a charger's own meter says, as OCPP sampled values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .car import Evse
from .profiles import rfc3339
from .world import GridPoint

SampledValue = Mapping[str, object]


def meter_value(
    evse: Evse, grid: GridPoint, measurands: Sequence[str], *, context: str, moment_s: float
) -> dict[str, object]:
    """One MeterValueType with the asked measurands, in their order; those without a value now are left out."""
    values: list[dict[str, object]] = [
        {**value, "measurand": measurand, "context": context}
        for measurand in measurands
        for value in _values(evse, grid, measurand)
    ]
    _sign(evse, values, context=context, moment_s=moment_s)
    return {"timestamp": rfc3339(moment_s), "sampledValue": values}


def _sign(evse: Evse, values: list[dict[str, object]], *, context: str, moment_s: float) -> None:
    """Beside the import register: one record with both registers."""
    for value in values:
        meter = evse.signing_meter
        if meter is not None and meter.asked and value["measurand"] == "Energy.Active.Import.Register":
            value["signedMeterValue"] = meter.signed_meter_value(
                import_milliwatt_hours=evse.energy.import_milliwatt_hours,
                export_milliwatt_hours=evse.energy.export_milliwatt_hours,
                context=context,
                running=evse.contactor_closed,
                moment_s=moment_s,
            )


def _values(evse: Evse, grid: GridPoint, measurand: str) -> Iterator[SampledValue]:
    if measurand == "Power.Active.Import":
        yield _value(round(max(0.0, evse.power_w), 1), "W", location="Outlet")
    elif measurand == "Power.Active.Export":
        yield _value(round(max(0.0, -evse.power_w), 1), "W", location="Outlet")
    elif measurand == "Energy.Active.Import.Register":
        yield _value(evse.energy.import_milliwatt_hours / 1000, "Wh", location="Outlet")
    elif measurand == "Energy.Active.Export.Register":
        yield _value(evse.energy.export_milliwatt_hours / 1000, "Wh", location="Outlet")
    elif measurand == "SoC":
        # Only a car that talks to the charger (ISO 15118) tells it; the simulated ones all do.
        if evse.car is not None:
            yield _value(round(evse.car.storage.state_of_charge_percent, 1), "Percent", location="EV")
    elif measurand == "Voltage":
        for phase, volts in enumerate(grid.voltages_v[: evse.phases], start=1):
            yield _value(round(volts, 2), "V", phase=f"L{phase}-N")
    elif measurand == "Current.Import":
        for phase, volts in enumerate(grid.voltages_v[: evse.phases], start=1):
            yield _value(round(max(0.0, evse.power_w) / evse.phases / volts, 3), "A", phase=f"L{phase}")
    elif measurand == "Frequency":
        yield _value(round(grid.frequency_hz, 3), "Hz")


def _value(value: float, unit: str, **more: str) -> SampledValue:
    return {"value": value, "unitOfMeasure": {"unit": unit}, **more}
