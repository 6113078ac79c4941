"""The whole gateway at one moment, as a person or a monitor wants to see it. Values only; `gateway.py` fills them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What one look must tell."""

    WELL = "well"
    ATTENTION = "attention"
    """Works, and somebody should see to something."""
    TROUBLE = "trouble"
    """Does not do its job now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it should be, and what to do."""

    severity: Verdict
    subject: str
    """"token", "link", a device id."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLine:
    """How far wall time is trusted."""

    quality: str
    error_bound_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLine:
    """A part with a state of its own: the token, the link, the store."""

    name: str
    ok: bool
    state: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceLine:
    """Statements on their way from measurement to the platform."""

    readings: int
    """Measured and stored since the agent's first start."""
    queued: int
    """Stored, not sealed yet."""
    sealed: int
    """Statements in sealed batches, since the agent's first start."""
    acknowledged: int
    """Statements in batches that the platform has acknowledged."""
    batches_waiting: int
    """Sealed batches that the platform has not acknowledged."""
    merged: int = 0
    """Readings merged to save space, since the agent's first start: their energy is kept, not their course."""
    store_bytes: int = 0
    """Space that evidence takes."""
    store_most_bytes: int = 0
    """Space that it may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateLine:
    """One certificate that has an end, and how it stands with its successor."""

    name: str
    ends_us: int
    renewed_from_us: int
    renewed_by: str
    """Address of the EST server; empty: a person does it."""
    failures: int
    """Tries to renew it in a row that came to nothing."""
    detail: str
    """Empty while there is nothing to tell of its renewal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLine:
    """One device."""

    device_id: str
    kind: str
    link: str
    detail: str
    settled: bool
    power_w: int | None
    import_wh: int | None
    export_wh: int | None
    state_of_charge_percent: int | None
    vehicle: str
    """One phrase about the car; empty where there is none."""
    lowest_w: int | None
    highest_w: int | None
    reason: str
    """Why it does what it does; empty when it is left to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """One command that is in force, waiting or just ended."""

    command_id: str
    text: str
    """"DISCHARGE 6 kW at battery, car"."""
    state: str
    start_us: int
    end_us: int
    in_force: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementLine:
    """Windows and channels."""

    window_s: int
    windows_closed: int
    windows_countersigned: int
    windows_waiting: int
    """Closed, and not countersigned yet."""
    channels_frozen: int
    last_window_end_us: int | None
    counter: int | None = None
    """Where the TPM's counter stands; None: there is none, or it was not read."""
    offline: str = ""
    """How it stands with signing after a start that the platform has not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedLine:
    """A pre-agreed schedule."""

    text: str
    """"-4000 W at the connection, agreed with grid until ..."."""
    power_w: int | None
    """For this quarter of an hour; None: nothing is agreed."""
    start_us: int
    end_us: int
    in_force: bool
    reason: str
    schedule: str = ""
    """The first 12 digits of its hash: what the quarters of its deviation name."""
    quarters: int = 0
    """Reckoned so far, of this schedule."""
    under_wh: int = 0
    over_wh: int = 0
    open_scheduled_wh: int | None = None
    """Of this quarter, until now; None: it is not reckoned with, since nothing is agreed or a newer one goes before."""
    open_delivered_wh: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviationLine:
    """How far the site is from all its schedules, and what that would cost."""

    quarters: int = 0
    """Reckoned since the agent's first start."""
    under_wh: int = 0
    over_wh: int = 0
    penalties_micro: dict[str, int] = field(default_factory=dict)
    """Millionths, by currency: 5 % of the price for what was missing, 2 % for what was too much."""
    last: tuple[DeviationQuarter, ...] = ()
    """The newest last; the open ones are with their schedules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeLine:
    """What the site could do otherwise for a quarter of an hour: up is towards export, down towards import."""

    power_up_w: int = 0
    power_down_w: int = 0
    energy_up_wh: int = 0
    energy_down_wh: int = 0
    ramp_up_w_per_min: int = 0
    ramp_down_w_per_min: int = 0
    minimum_soc_percent: float | None = None
    maximum_soc_percent: float | None = None
    why_not: str = ""
    windows_missed: int = 0
    windows_missed_in_a_row: int = 0
    derated_permille: int = 1000
    """How much of it the platform goes by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedStatus:
    """A signed feed: the last value that its sources agreed on, and how old that is."""

    feed: str
    """"price" (millionths per kWh) or "frequency" (mHz)."""
    value: int
    currency: str
    age_s: float
    sources: int
    doubt: str
    """Why they do not agree now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviationQuarter:
    """One quarter of an hour of one schedule, that is over."""

    start_us: int
    schedule: str
    """The first 12 digits of its hash."""
    scheduled_wh: int
    delivered_wh: int | None
    under_wh: int
    over_wh: int
    penalty_micro: int | None
    currency: str
    excused: bool
    """A command went before the schedule."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything on the status page, in `/api/status` and in `v2g-gateway status --json`."""

    taken_at_us: int
    name: str
    version: str
    gateway_id: str
    """did:key of the evidence key, or did:v2g of its history; empty until the token has been seen once."""
    incarnation: int
    boot_id: str
    uptime_s: float
    verdict: Verdict
    sentence: str
    """The verdict in words."""
    problems: tuple[Problem, ...]
    stopped_by: str | None
    """Who pressed the local STOP; None when it is not pressed."""
    safe_mode: str | None
    """Why the site is in safe mode; None when it is not."""
    control_age_s: float
    """Since the control loop last made progress."""
    connection_power_w: int | None
    """At the grid connection: + import, - export."""
    clock: ClockLine
    parts: tuple[PartLine, ...]
    evidence: EvidenceLine
    devices: tuple[DeviceLine, ...]
    commands: tuple[CommandLine, ...]
    settlement: SettlementLine
    schedules: tuple[AgreedLine, ...] = ()
    deviation: DeviationLine = field(default_factory=DeviationLine)
    envelope: EnvelopeLine = field(default_factory=EnvelopeLine)
    feeds: tuple[FeedStatus, ...] = ()
    certificates: tuple[CertificateLine, ...] = ()


def verdict_of(problems: tuple[Problem, ...]) -> tuple[Verdict, str]:
    """The worst problem decides; its sentence is the headline."""
    for severity in (Verdict.TROUBLE, Verdict.ATTENTION):
        worst = [problem for problem in problems if problem.severity is severity]
        if worst:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            return severity, f"{worst[0].subject}: {worst[0].sentence}{more}"
    return Verdict.WELL, "All is well."
