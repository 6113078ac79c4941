"""The shapes of the OCPP 2.0.1 messages that we read, with the specification's own names.

A payload becomes one of these only after its schema was checked (`schemas.py`), so a required key is there and has its
type. Two things the schema leaves open: an integer may have been sent as 1.0 (read it through `int`), and a number may
be of any size.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ChargingStation(TypedDict):
    vendorName: str
    model: str
    serialNumber: NotRequired[str]
    firmwareVersion: NotRequired[str]


class BootNotification(TypedDict):
    chargingStation: ChargingStation
    reason: str


class StatusNotification(TypedDict):
    timestamp: str
    connectorStatus: str
    evseId: int
    connectorId: int


class IdToken(TypedDict):
    idToken: str
    type: str


class Authorize(TypedDict):
    idToken: IdToken


class UnitOfMeasure(TypedDict):
    unit: NotRequired[str]
    multiplier: NotRequired[int]


class SignedMeterValue(TypedDict):
    """`signingMethod` and `publicKey` are optional in 2.1, and say nothing that may be trusted in either version."""

    signedMeterData: str
    encodingMethod: str
    signingMethod: NotRequired[str]
    publicKey: NotRequired[str]


class SampledValue(TypedDict):
    value: float
    measurand: NotRequired[str]
    phase: NotRequired[str]
    location: NotRequired[str]
    context: NotRequired[str]
    unitOfMeasure: NotRequired[UnitOfMeasure]
    signedMeterValue: NotRequired[SignedMeterValue]


class MeterValue(TypedDict):
    timestamp: str
    sampledValue: list[SampledValue]


class MeterValues(TypedDict):
    evseId: int
    meterValue: list[MeterValue]


class TransactionInfo(TypedDict):
    transactionId: str
    chargingState: NotRequired[str]
    stoppedReason: NotRequired[str]
    remoteStartId: NotRequired[int]


class Evse(TypedDict):
    id: int


class TransactionEvent(TypedDict):
    eventType: str
    timestamp: str
    triggerReason: str
    seqNo: int
    transactionInfo: TransactionInfo
    offline: NotRequired[bool]
    evse: NotRequired[Evse]
    idToken: NotRequired[IdToken]
    meterValue: NotRequired[list[MeterValue]]


class AcChargingParameters(TypedDict):
    """energyAmount in Wh, currents in A per phase, voltage line to neutral in V."""

    energyAmount: int
    evMinCurrent: int
    evMaxCurrent: int
    evMaxVoltage: int


class DcChargingParameters(TypedDict):
    """Energies in Wh, power in W, states of charge in percent."""

    evMaxCurrent: int
    evMaxVoltage: int
    energyAmount: NotRequired[int]
    evMaxPower: NotRequired[int]
    stateOfCharge: NotRequired[int]
    evEnergyCapacity: NotRequired[int]


class ChargingNeeds(TypedDict):
    requestedEnergyTransfer: str
    departureTime: NotRequired[str]
    acChargingParameters: NotRequired[AcChargingParameters]
    dcChargingParameters: NotRequired[DcChargingParameters]


class NotifyEVChargingNeeds(TypedDict):
    evseId: int
    chargingNeeds: ChargingNeeds


class SecurityEventNotification(TypedDict):
    type: str
    timestamp: str
    techInfo: NotRequired[str]


class SchedulePeriod(TypedDict):
    """startPeriod in seconds from the start of the schedule; limit in the schedule's chargingRateUnit."""

    startPeriod: int
    limit: float
    numberPhases: NotRequired[int]


class CompositeSchedule(TypedDict):
    duration: int
    scheduleStart: str
    chargingRateUnit: str
    chargingSchedulePeriod: list[SchedulePeriod]


class StatusAnswer(TypedDict):
    """What the answers to commands have in common."""

    status: str
    statusInfo: NotRequired[StatusInfo]


class StatusInfo(TypedDict):
    reasonCode: str
    additionalInfo: NotRequired[str]


class CompositeScheduleAnswer(StatusAnswer):
    schedule: NotRequired[CompositeSchedule]


class Named(TypedDict):
    name: str


class SetVariableResult(TypedDict):
    attributeStatus: str
    component: Named
    variable: Named


class SetVariablesAnswer(TypedDict):
    setVariableResult: list[SetVariableResult]


class GetVariableResult(TypedDict):
    attributeStatus: str
    attributeValue: NotRequired[str]


class GetVariablesAnswer(TypedDict):
    getVariableResult: list[GetVariableResult]


class TransactionStatusAnswer(TypedDict):
    messagesInQueue: bool
    ongoingIndicator: NotRequired[bool]
