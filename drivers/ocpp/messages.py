"""The shapes of the OCPP 2.1 and 2.0.1 messages that we read, with the specification's own names.

A payload becomes one of these only after its schema was checked (`schemas.py`), so a required key is there and has its
type. Two things the schema leaves open: an integer may have been sent as 1.0 (read it through `int`), and a number may
be of any size.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from drivers.ocpp.schemas import Json


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


class AuthorizeRequest(TypedDict):
    """Authorize (C01), as far as it is read here."""

    idToken: IdToken
    certificate: NotRequired[str]
    iso15118CertificateHashData: NotRequired[list[Json]]


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
    operationMode: NotRequired[str]


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


class V2xChargingParameters(TypedDict):
    """OCPP 2.1. Powers in W, of all phases unless values for L2 and L3 are there; energies in Wh, missing to a state
    of charge, below 0 where the car is above it."""

    maxChargePower: NotRequired[float]
    maxChargePower_L2: NotRequired[float]
    maxChargePower_L3: NotRequired[float]
    maxDischargePower: NotRequired[float]
    maxDischargePower_L2: NotRequired[float]
    maxDischargePower_L3: NotRequired[float]
    maxDischargeCurrent: NotRequired[float]
    maxVoltage: NotRequired[float]
    evTargetEnergyRequest: NotRequired[float]
    evMinEnergyRequest: NotRequired[float]
    evMinV2XEnergyRequest: NotRequired[float]


class PowerScheduleEntry(TypedDict):
    """duration in s; power in W, below 0 for discharging."""

    duration: int
    power: float


class EvPowerSchedule(TypedDict):
    timeAnchor: str
    evPowerScheduleEntries: list[PowerScheduleEntry]


class EvEnergyOffer(TypedDict):
    """OCPP 2.1, from ISO 15118-20."""

    evPowerSchedule: EvPowerSchedule


class ChargingNeeds(TypedDict):
    requestedEnergyTransfer: str
    availableEnergyTransfer: NotRequired[list[str]]
    departureTime: NotRequired[str]
    acChargingParameters: NotRequired[AcChargingParameters]
    dcChargingParameters: NotRequired[DcChargingParameters]
    v2xChargingParameters: NotRequired[V2xChargingParameters]
    evEnergyOffer: NotRequired[EvEnergyOffer]


class NotifyEVChargingNeeds(TypedDict):
    evseId: int
    chargingNeeds: ChargingNeeds


class SecurityEventNotification(TypedDict):
    type: str
    timestamp: str
    techInfo: NotRequired[str]


class ChargingLimit(TypedDict):
    chargingLimitSource: str
    isGridCritical: NotRequired[bool]
    isLocalGeneration: NotRequired[bool]


class SchedulePeriod(TypedDict):
    """startPeriod in seconds from the start of the schedule; limits in the schedule's chargingRateUnit. 2.0.1 has no
    more than the first three, and always the limit."""

    startPeriod: int
    limit: NotRequired[float]
    numberPhases: NotRequired[int]
    operationMode: NotRequired[str]
    setpoint: NotRequired[float]
    dischargeLimit: NotRequired[float]


class ChargingSchedule(TypedDict):
    chargingRateUnit: str
    chargingSchedulePeriod: list[SchedulePeriod]
    startSchedule: NotRequired[str]
    duration: NotRequired[int]


class NotifyChargingLimit(TypedDict):
    chargingLimit: ChargingLimit
    evseId: NotRequired[int]
    chargingSchedule: NotRequired[list[ChargingSchedule]]


class ClearedChargingLimit(TypedDict):
    chargingLimitSource: str
    evseId: NotRequired[int]


class NotifyEVChargingSchedule(TypedDict):
    timeBase: str
    evseId: int
    chargingSchedule: ChargingSchedule


class NotifyPriorityCharging(TypedDict):
    transactionId: str
    activated: bool


class ChargingProfile(TypedDict):
    id: int
    stackLevel: int
    chargingProfilePurpose: str


class ReportChargingProfiles(TypedDict):
    requestId: int
    chargingLimitSource: str
    chargingProfile: list[ChargingProfile]
    evseId: int
    tbc: NotRequired[bool]


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
    variable: Named
    attributeValue: NotRequired[str]


class GetVariablesAnswer(TypedDict):
    getVariableResult: list[GetVariableResult]


class TransactionStatusAnswer(TypedDict):
    messagesInQueue: bool
    ongoingIndicator: NotRequired[bool]
