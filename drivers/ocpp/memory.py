"""What of a station must survive our restart, as bytes and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson

from drivers.ocpp.authorisation import LocalList
from drivers.ocpp.car import Car
from drivers.ocpp.reports import Reports
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.sequence import SequenceLog
from drivers.ocpp.session import EvseSession, Moment, Transaction
from drivers.ocpp.standing import Standing

if TYPE_CHECKING:
    from drivers.ocpp.station import StationSession


@dataclass(frozen=True, slots=True, kw_only=True)
class EvseLife:
    """Of one EVSE."""

    transaction: Transaction | None
    ended: Sequence[str]
    car: Car
    import_register_milliwatt_hours: int | None
    export_register_milliwatt_hours: int | None
    sequence: SequenceLog
    limit_w: int | None

    def give_to(self, evse: EvseSession) -> None:
        """It goes on from here."""
        evse.transaction, evse.car, evse.sequence, evse.limit_w = (
            self.transaction,
            self.car,
            self.sequence,
            self.limit_w,
        )
        evse.ended.extend(self.ended)
        evse.import_register_milliwatt_hours = self.import_register_milliwatt_hours
        evse.export_register_milliwatt_hours = self.export_register_milliwatt_hours


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of a whole station."""

    serial: str
    identity: str
    generation: int
    limit_w: int | None
    standing: Standing
    certificate: dict[str, Json]
    local_list: LocalList
    reservations: dict[int, JsonObject]
    evses: Sequence[tuple[EvseSession, EvseLife]]


def encode(station: StationSession) -> bytes:
    """What `decode` reads."""
    evses: dict[str, Json] = {}
    for number, evse in station.evses.items():
        transaction = evse.transaction
        evses[str(number)] = {
            "transaction": None if transaction is None else asdict(transaction),
            "ended": list(evse.ended),
            "sequence": evse.sequence.encode(),
            "limit_w": evse.limit_w,
            "car": evse.car.encode(),
            # Registers move while a transaction runs: then the next message knows better.
            "import": evse.import_register_milliwatt_hours if transaction is None else None,
            "export": evse.export_register_milliwatt_hours if transaction is None else None,
        }
    return orjson.dumps(
        {
            "serial": station.serial,
            "identity": station.identity,
            "generation": station.generation,
            "limit_w": station.limit_w,
            "standing": station.standing.value,
            "certificate": station.certificate,
            "local_list": station.local_list.encode(),
            "reports": station.reports.encode(),
            "evses": evses,
        }
    )


def decode(remembered: bytes, charger_id: str, evses: Mapping[int, EvseSession], now: Moment | None) -> Memory:
    """What `encode` gave, in this or an earlier version, of those EVSEs that are configured still.

    Raises ValueError when it is damaged.
    """
    try:
        state = orjson.loads(remembered)
        local, reports = LocalList(), Reports()
        if "reports" in state:  # absent in what an earlier version kept
            local.restore(state["local_list"])
            reports.restore(state["reports"])
        return Memory(
            serial=str(state["serial"]),
            identity=str(state["identity"]),
            generation=int(state["generation"]),
            limit_w=state.get("limit_w"),
            standing=Standing(state.get("standing", "Accepted")),
            certificate=dict(state.get("certificate", {})),
            local_list=local,
            reservations=reports.reservations,
            evses=[
                (evses[int(number)], _life(kept, now))
                for number, kept in state["evses"].items()
                if int(number) in evses
            ],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what was remembered of charger {charger_id} is damaged: {error}") from error


def _life(kept: Mapping[str, Any], now: Moment | None) -> EvseLife:
    transaction = kept["transaction"]
    clocks = (None, None) if now is None else (now.monotonic_s, now.wall_us)
    sequence = SequenceLog()
    if kept.get("sequence") is not None:  # absent in what an earlier version kept
        sequence.restore(kept["sequence"])
    return EvseLife(
        transaction=None if transaction is None else Transaction(**transaction),
        ended=[str(transaction_id) for transaction_id in kept["ended"]],
        car=Car.restored(kept["car"], *clocks),
        import_register_milliwatt_hours=kept["import"],
        export_register_milliwatt_hours=kept["export"],
        sequence=sequence,
        limit_w=kept.get("limit_w"),
    )
