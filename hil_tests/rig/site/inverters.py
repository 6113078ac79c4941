"""PV and battery inverter as SunSpec devices: their physics behind registers, and registers over their physics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .controls import PowerLimit123, PowerLimit704, PowerSetpoint704, StorageRates124
from .habits import CONFORMING, Habits
from .plant import BatteryInverter, PvInverter
from .registers import PointKey, RegisterMap, scale_factor_for
from .world import GridPoint

MANUFACTURER = "Rig Works"
POWER_FACTOR_SCALE = -3


class SunSpecDevice:
    """What all simulated SunSpec devices share: common model, register access, the moment of a write."""

    def __init__(
        self,
        models: Sequence[int],
        *,
        model_name: str,
        serial: str,
        monotonic_s: Callable[[], float],
        habits: Habits = CONFORMING,
    ) -> None:
        self.registers = RegisterMap(habits)
        self.serial = serial
        self._monotonic_s = monotonic_s
        for model in models:
            self.registers.add_model(model, {"module": 2} if model == 160 else None)
        self.registers.add_end()
        self.registers.put(1, Mn=MANUFACTURER, Md=model_name, Vr="1.0", SN=serial, DA=1)

    def read(self, address: int, count: int) -> list[int]:
        """As the Modbus server asks. Raises RegisterRefusedError."""
        return self.registers.read(address, count)

    def write(self, address: int, words: list[int]) -> None:
        """As the Modbus server asks. Raises RegisterRefusedError."""
        self._written(self.registers.write(address, words), self._monotonic_s())

    def before_step(self, now_s: float) -> None:
        """Let timers run out and hand the controls to the physics."""

    def after_step(self) -> None:
        """Show what the physics did."""

    def _written(self, points: frozenset[PointKey], now_s: float) -> None:
        """React to a write of these points."""


class _Inverter(SunSpecDevice):
    """Measurement 701, capacity 702, nameplate 120, settings 121, controls 704, for either kind of inverter."""

    def __init__(
        self,
        models: Sequence[int],
        grid: GridPoint,
        rated_w: float,
        *,
        model_name: str,
        serial: str,
        monotonic_s: Callable[[], float],
        habits: Habits,
    ) -> None:
        super().__init__(models, model_name=model_name, serial=serial, monotonic_s=monotonic_s, habits=habits)
        self._grid = grid
        self._rated_w = rated_w
        put, put_scaled = self.registers.put, self.registers.put_scaled
        scale = scale_factor_for(1.2 * rated_w)
        rated_a = rated_w / 690
        amp_scale = scale_factor_for(1.2 * rated_a, most=320) - 2

        put(120, WRtg_SF=scale, VARtg_SF=scale, VArRtg_SF=scale, ARtg_SF=amp_scale, PFRtg_SF=-2)
        put_scaled(120, WRtg=rated_w, VARtg=rated_w, ARtg=rated_a)
        put_scaled(120, VArRtgQ1=0.4 * rated_w, VArRtgQ4=-0.4 * rated_w, PFRtgQ1=0.9, PFRtgQ4=-0.9)
        put(121, WMax_SF=scale, VRef_SF=0, VRefOfs_SF=0, VAMax_SF=scale, ECPNomHz_SF=0)
        put_scaled(121, WMax=rated_w, VRef=230, VRefOfs=0, VAMax=rated_w, ECPNomHz=50)

        put(701, ACType=2, St=1, ConnSt=1, DERMode=1, Alrm=0)
        put(701, A_SF=amp_scale, V_SF=-1, Hz_SF=-3, W_SF=scale, PF_SF=POWER_FACTOR_SCALE, VA_SF=scale, Var_SF=scale)
        put(701, TotWh_SF=-3, Tmp_SF=-1)
        put(702, W_SF=scale, PF_SF=POWER_FACTOR_SCALE, VA_SF=scale, Var_SF=scale, V_SF=0, A_SF=amp_scale)
        put_scaled(702, WMaxRtg=rated_w, VAMaxRtg=rated_w, VarMaxInjRtg=0.4 * rated_w, VarMaxAbsRtg=0.4 * rated_w)
        put_scaled(702, VNomRtg=230, VMaxRtg=265, VMinRtg=180, AMaxRtg=rated_a)
        put_scaled(702, WMax=rated_w, VAMax=rated_w, VNom=230)

        # Not for a gateway to touch: here so that a test can see that nobody did.
        put(704, PF_SF=POWER_FACTOR_SCALE, PFWInjEna=0, PFWInjEnaRvrt=0, PFWInjRvrtTms=0, PFWAbsEna=0, AntiIslEna=1)
        put(704, VarSet_SF=0, VarSetPct_SF=-2, VarSetEna=0, VarSetMod=4, VarSet=0, WRmp=100)
        self.registers.put_raw((704, "PFWInj.PF"), 1000)
        self.registers.put_raw((704, "PFWInj.Ext"), 0)
        self.limit704 = PowerLimit704(self.registers)

    @property
    def max_w(self) -> float:
        """WMax as set: what percentages are of."""
        return self.registers.scaled(702, "WMax")

    def _written(self, points: frozenset[PointKey], now_s: float) -> None:
        self.limit704.written(points, now_s)
        if (121, "WMax") in points:
            self.registers.put(702, WMax=self.registers.raw(121, "WMax"))
        elif (702, "WMax") in points:
            self.registers.put(121, WMax=self.registers.raw(702, "WMax"))

    def _show_measurement(self, power_w: float, import_milliwatt_hours: int, export_milliwatt_hours: int) -> None:
        """Fill 701. SunSpec counts generation positive, so signs turn here."""
        put, put_scaled = self.registers.put, self.registers.put_scaled
        volts = self._grid.voltages_v
        generated_w = -power_w
        put_scaled(701, W=generated_w, VA=abs(generated_w), Var=0, PF=1 if generated_w >= 0 else -1)
        put_scaled(701, WL1=generated_w / 3, WL2=generated_w / 3, WL3=generated_w / 3)
        put_scaled(701, A=abs(power_w) / 230, AL1=abs(power_w) / 690, AL2=abs(power_w) / 690, AL3=abs(power_w) / 690)
        put_scaled(701, LNV=sum(volts) / 3, LLV=sum(volts) / 3 * math.sqrt(3))
        put_scaled(701, VL1=volts[0], VL2=volts[1], VL3=volts[2], Hz=self._grid.frequency_hz, TmpCab=31.0)
        put(701, TotWhInj=export_milliwatt_hours, TotWhAbs=import_milliwatt_hours)


class PvDevice(_Inverter):
    """The PV inverter: models 1, 103, 120-123, 160, 701, 702, 704."""

    MODELS = (1, 103, 120, 121, 122, 123, 160, 701, 702, 704)

    def __init__(
        self,
        inverter: PvInverter,
        grid: GridPoint,
        *,
        serial: str,
        monotonic_s: Callable[[], float],
        habits: Habits = CONFORMING,
    ) -> None:
        super().__init__(
            self.MODELS,
            grid,
            inverter.rated_w,
            model_name="Sun 8",
            serial=serial,
            monotonic_s=monotonic_s,
            habits=habits,
        )
        self._inverter = inverter
        put = self.registers.put
        put(120, DERTyp=4)
        put(702, CtrlModes=1)
        put(103, A_SF=self.registers.raw(701, "A_SF"), V_SF=-1, Hz_SF=-2, WH_SF=0, Tmp_SF=-1)
        put(103, VA_SF=self.registers.raw(701, "W_SF"), Evt1=0, Evt2=0)
        put(122, PVConn=7, ECPConn=1, StActCtl=0, WAval_SF=self.registers.raw(701, "W_SF"))
        put(160, DCA_SF=-1, DCV_SF=-1, DCW_SF=self.registers.raw(701, "W_SF"), DCWH_SF=0, N=2)
        for index in range(2):
            self.registers.put_raw((160, f"module.{index}.ID"), index + 1)
            self.registers.put_raw((160, f"module.{index}.IDStr"), f"String {index + 1}")
        self.limit123 = PowerLimit123(self.registers)
        self.after_step()

    def _written(self, points: frozenset[PointKey], now_s: float) -> None:
        super()._written(points, now_s)
        self.limit123.written(points, now_s)

    def before_step(self, now_s: float) -> None:
        self.limit704.tick(now_s)
        self.limit123.tick(now_s)
        self._inverter.limit_w = min(self.limit704.limit_w(self.max_w), self.limit123.limit_w(self.max_w))
        self._inverter.connected = self.limit123.connected

    def after_step(self) -> None:
        inverter, put, put_scaled = self._inverter, self.registers.put, self.registers.put_scaled
        energy = inverter.energy
        self._show_measurement(inverter.power_w, energy.import_milliwatt_hours, energy.export_milliwatt_hours)
        produced_w = -inverter.power_w
        volts = self._grid.voltages_v
        # Model 103's power moves its scale factor with the value, as some inverters do (finer while it fits).
        put(103, W_SF=scale_factor_for(produced_w, most=3_000) - 1)
        put_scaled(
            103, W=produced_w, VA=produced_w, Hz=self._grid.frequency_hz, WH=energy.export_milliwatt_hours / 1000
        )
        put_scaled(103, A=produced_w / 230, AphA=produced_w / 690, AphB=produced_w / 690, AphC=produced_w / 690)
        put_scaled(103, PhVphA=volts[0], PhVphB=volts[1], PhVphC=volts[2], TmpCab=31.0)
        throttled = inverter.throttled
        put(103, St=1 if not inverter.connected else 5 if throttled else 4)
        put(701, InvSt=0 if not inverter.connected else 4 if throttled else 3)
        put(701, St=int(inverter.connected), ConnSt=int(inverter.connected), ThrotSrc=int(throttled))
        put(122, ActWh=energy.export_milliwatt_hours // 1000, ECPConn=int(inverter.connected), StActCtl=int(throttled))
        put_scaled(122, WAval=inverter.available_w)
        for index, volt in enumerate((610.0, 590.0)):
            half_w = produced_w / 2 * 1.03
            self.registers.put_raw((160, f"module.{index}.DCV"), round(volt * 10))
            self.registers.put_raw((160, f"module.{index}.DCA"), round(half_w / volt * 10))
            self.registers.put_raw(
                (160, f"module.{index}.DCW"), round(half_w / 10 ** self.registers.raw(160, "DCW_SF"))
            )
            self.registers.put_raw((160, f"module.{index}.DCWH"), energy.export_milliwatt_hours // 2000)


class BatteryDevice(_Inverter):
    """The battery inverter: models 1, 120, 121, 124, 701-704, 713."""

    MODELS = (1, 120, 121, 124, 701, 702, 703, 704, 713)

    def __init__(
        self,
        inverter: BatteryInverter,
        grid: GridPoint,
        *,
        serial: str,
        monotonic_s: Callable[[], float],
        habits: Habits = CONFORMING,
    ) -> None:
        super().__init__(
            self.MODELS,
            grid,
            inverter.rated_w,
            model_name="Store 10",
            serial=serial,
            monotonic_s=monotonic_s,
            habits=habits,
        )
        self._inverter = inverter
        put, put_scaled = self.registers.put, self.registers.put_scaled
        rated_w, capacity_wh = inverter.rated_w, inverter.storage.capacity_wh
        scale = self.registers.raw(702, "W_SF")
        energy_scale = scale_factor_for(capacity_wh)
        put(120, DERTyp=82, WHRtg_SF=energy_scale, MaxChaRte_SF=scale, MaxDisChaRte_SF=scale)
        put_scaled(120, WHRtg=capacity_wh, MaxChaRte=rated_w, MaxDisChaRte=rated_w)
        put(702, CtrlModes=3)
        put_scaled(702, WChaRteMaxRtg=rated_w, WDisChaRteMaxRtg=rated_w, WChaRteMax=rated_w, WDisChaRteMax=rated_w)
        put(703, V_SF=-1, Hz_SF=-3, ES=1, ESVHi=1050, ESVLo=917, ESHzHi=50_100, ESHzLo=49_500)
        put(703, ESDlyTms=60, ESRndTms=0, ESRmpTms=600, ESDlyRemTms=0)
        put(713, WH_SF=energy_scale, Pct_SF=-1, Sta=0)
        put_scaled(713, WHRtg=capacity_wh, SoH=99.0)
        put(124, WChaMax_SF=scale, WChaDisChaGra_SF=0, MinRsvPct_SF=0, ChaState_SF=-1, InBatV_SF=-1)
        put_scaled(124, WChaMax=rated_w, WChaGra=100, WDisChaGra=100, MinRsvPct=inverter.reserve_percent, InBatV=51.2)
        put(124, ChaGriSet=1)
        self.registers.bound(124, "MinRsvPct", 0, 100)
        self.setpoint704 = PowerSetpoint704(self.registers, watt_scale=0)
        self.rates124 = StorageRates124(self.registers)
        self.after_step()

    def _written(self, points: frozenset[PointKey], now_s: float) -> None:
        super()._written(points, now_s)
        self.setpoint704.written(points, now_s)
        self.rates124.written(points, now_s)

    def before_step(self, now_s: float) -> None:
        self.limit704.tick(now_s)
        self.setpoint704.tick(now_s)
        self.rates124.tick(now_s)
        inverter = self._inverter
        generation_w = self.setpoint704.generation_w(self.max_w)
        lowest, highest = (-generation_w, -generation_w) if generation_w is not None else self.rates124.band_w()
        limit_w = self.limit704.limit_w(self.max_w)
        if limit_w < math.inf:
            lowest = max(-limit_w, -math.inf if lowest is None else lowest)
            highest = None if highest is None else max(lowest, highest)
        inverter.lowest_w, inverter.highest_w = lowest, highest
        inverter.reserve_percent = self.registers.scaled(124, "MinRsvPct")
        inverter.in_service = not self.registers.implements(703, "ES") or self.registers.raw(703, "ES") == 1

    def after_step(self) -> None:
        inverter, put, put_scaled = self._inverter, self.registers.put, self.registers.put_scaled
        energy, storage = inverter.energy, inverter.storage
        self._show_measurement(inverter.power_w, energy.import_milliwatt_hours, energy.export_milliwatt_hours)
        soc = storage.state_of_charge_percent
        put(701, InvSt=3 if inverter.in_service else 0, DERMode=2 if self._grid.islanded else 1)
        put(701, ConnSt=int(not self._grid.islanded and inverter.in_service))
        put_scaled(713, SoC=soc, WHAvail=storage.stored_wh)
        put_scaled(124, ChaState=soc)
        put(124, ChaSt=4 if inverter.power_w > 1 else 3 if inverter.power_w < -1 else 5 if soc > 99.9 else 6)
