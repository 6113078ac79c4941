"""Makes the snapshot for the faces: what every part says of itself, and from it what a person should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from agent.clock import Instant
from agent.config import Settings, UnsignedCommands
from agent.control.envelope import Envelope
from agent.control.missed_windows import MissedWindows
from agent.control.snapshot import CommandControl, ControlSnapshot, DeviceControl
from agent.identity.trust import TrustList
from agent.measure.reading import Reading
from agent.roads.agreed import agreed_line, deviation_line, envelope_line, feed_lines, windows_problems
from agent.roads.settling import Settling
from agent.status import (
    CertificateLine,
    ClockLine,
    CommandLine,
    DeviceLine,
    EvidenceLine,
    PartLine,
    Problem,
    SettlementLine,
    Snapshot,
    Verdict,
    verdict_of,
)
from agent.token.token import TokenState, TokenStatus
from agent.uplink.status import Carrier, UplinkStatus
from drivers.device import DeviceKind, DeviceStatus, LinkState, VehicleSession

MOST_COMMANDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the parts say of themselves, at one moment."""

    settings: Settings
    version: str
    gateway_id: str
    incarnation: int
    boot_id: bytes
    started_s: float
    now: Instant
    control: ControlSnapshot
    control_progress_s: float
    token: TokenStatus
    link: UplinkStatus | None
    """None: not set up yet."""
    evidence: EvidenceLine
    latest: Mapping[str, Reading]
    store_trouble: str
    encrypted: bool
    """The store is."""
    trust: TrustList | None
    trust_trouble: str
    identity_trouble: str
    settling: Settling | None
    envelope: Envelope = field(default_factory=Envelope)
    windows: MissedWindows = field(default_factory=MissedWindows)
    devices: Sequence[DeviceStatus]
    unmade: Mapping[str, str]
    """Devices that could not be made, with the reason."""
    down: Mapping[str, str]
    """Parts that failed and wait for their next start."""
    noted: Sequence[Problem]
    certificates: PartLine | None = None
    """None: there are none to watch."""
    certificate_lines: Sequence[CertificateLine] = ()
    room_trouble: str = ""
    """Why the evidence does not get smaller though it should."""


def snapshot(parts: Parts) -> Snapshot:
    """The whole gateway."""
    controls = {line.device_id: line for line in parts.control.devices}
    settled = {device.id for device in parts.settings.device if device.settled}
    problems = tuple(_problems(parts, controls))
    verdict, sentence = verdict_of(problems)
    return Snapshot(
        taken_at_us=parts.now.wall_us,
        name=parts.settings.gateway.name,
        version=parts.version,
        gateway_id=parts.gateway_id,
        incarnation=parts.incarnation,
        boot_id=parts.boot_id.hex(),
        uptime_s=parts.now.monotonic_s - parts.started_s,
        verdict=verdict,
        sentence=sentence,
        problems=problems,
        stopped_by=parts.control.stopped_by,
        safe_mode=parts.control.safe_mode,
        control_age_s=parts.now.monotonic_s - parts.control_progress_s,
        connection_power_w=parts.control.connection_w,
        clock=ClockLine(quality=parts.now.quality.name, error_bound_us=parts.now.error_bound_us),
        parts=_part_lines(parts),
        evidence=parts.evidence,
        devices=tuple(
            device_line(
                status,
                settled=status.device_id in settled,
                reading=parts.latest.get(status.device_id),
                control=controls.get(status.device_id),
            )
            for status in parts.devices
        ),
        commands=tuple(command_line(command) for command in parts.control.commands[:MOST_COMMANDS]),
        settlement=_settlement_line(parts),
        schedules=tuple(agreed_line(line) for line in parts.control.schedules),
        deviation=deviation_line(parts.control.deviations),
        feeds=feed_lines(parts.control.feeds),
        inputs=tuple(f"{wired.name}: {wired.text}" for wired in parts.control.inputs if wired.active),
        envelope=envelope_line(parts.envelope, parts.windows),
        certificates=tuple(parts.certificate_lines),
    )


def _part_lines(parts: Parts) -> tuple[PartLine, ...]:
    trouble = parts.store_trouble or parts.control.store_trouble
    kept = "encrypted" if parts.encrypted else ""
    token, link = parts.token, parts.link
    return (
        PartLine(name="store", ok=not trouble, state="fault" if trouble else "ready", detail=trouble or kept),
        PartLine(name="token", ok=token.state is TokenState.READY, state=token.state.value, detail=token_detail(token)),
        PartLine(
            name="link",
            # Who wants no platform lacks no link.
            ok=parts.settings.platform is None or (link is not None and link.connected),
            state="not set up" if link is None else link.carrier.value,
            detail="there is no platform" if parts.settings.platform is None else "" if link is None else link.detail,
        ),
        _commands_line(parts),
        *_countersignature_line(parts),
        *([] if parts.certificates is None else [parts.certificates]),
    )


def _countersignature_line(parts: Parts) -> tuple[PartLine, ...]:
    """Where it is configured: that roots are signed twice, and how far the second key is protected."""
    if parts.settings.evidence.countersign == "no":
        return ()
    trouble = next((problem.sentence for problem in parts.noted if problem.subject == "countersignature"), "")
    kept = "its key is in a file, encrypted under a key of the token, and in memory while the agent runs"
    line = PartLine(
        name="countersignature", ok=not trouble, state=parts.settings.evidence.countersign, detail=trouble or kept
    )
    return (line,)


_UNSIGNED: Final = {
    UnsignedCommands.REFUSE: "unsigned ones are refused",
    UnsignedCommands.RESTRICTIVE: "unsigned ones are obeyed where they only restrict",
    UnsignedCommands.ALL: "UNSIGNED ONES ARE OBEYED",
}


def _commands_line(parts: Parts) -> PartLine:
    """Whose commands are obeyed here: the auditor's first question."""
    unsigned = parts.settings.control.unsigned_commands
    trust = parts.trust
    if trust is None:
        detail = "there is no trust list: signed commands cannot be checked and are refused"
    elif trust.expired(parts.now.wall_us):
        detail = f"trust list version {trust.version} has expired: only IDLE and CURTAIL are obeyed"
    else:
        until = datetime.fromtimestamp(trust.expires_us / 1e6, UTC).date().isoformat()
        detail = f"trust list version {trust.version} with {len(trust.issuers)} keys, until {until}"
    return PartLine(
        name="commands",
        ok=unsigned is not UnsignedCommands.ALL,
        state=_UNSIGNED[unsigned],
        detail=detail if parts.settings.platform is not None else "there is no platform",
    )


def _settlement_line(parts: Parts) -> SettlementLine:
    settling = parts.settling
    return SettlementLine(
        window_s=parts.settings.settlement.window_s,
        windows_closed=0 if settling is None else settling.windows_closed,
        windows_countersigned=0 if settling is None else settling.windows_countersigned,
        windows_waiting=0 if settling is None else settling.windows_waiting,
        channels_frozen=0 if settling is None else len(settling.frozen),
        last_window_end_us=None if settling is None else settling.last_window_end_us,
        counter=None if settling is None else settling.offline.status.counter,
        offline="" if settling is None else settling.offline.status.sentence,
    )


def _problems(parts: Parts, controls: Mapping[str, DeviceControl]) -> list[Problem]:
    """Everything that is not as it should be, what weighs most first."""

    def trouble(subject: str, sentence: str) -> Problem:
        return Problem(severity=Verdict.TROUBLE, subject=subject, sentence=sentence)

    found = list(parts.noted)
    found += [trouble(name, f"failed and starts again: {reason}") for name, reason in parts.down.items()]
    found += [trouble(device_id, reason) for device_id, reason in parts.unmade.items()]
    if parts.store_trouble:
        found.append(trouble("store", parts.store_trouble))
    if parts.room_trouble:
        found.append(Problem(severity=Verdict.ATTENTION, subject="space", sentence=parts.room_trouble))
    if parts.trust_trouble:
        found.append(Problem(severity=Verdict.ATTENTION, subject="trust list", sentence=parts.trust_trouble))
    if parts.identity_trouble:
        found.append(Problem(severity=Verdict.ATTENTION, subject="identity", sentence=parts.identity_trouble))
    frozen = {} if parts.settling is None else parts.settling.frozen
    found += [trouble(f"channel of {device_id}", reason) for device_id, reason in frozen.items()]
    if parts.settling is not None and parts.settling.trouble:
        sentence = f"windows and channels wait: {parts.settling.trouble}"
        found.append(Problem(severity=Verdict.ATTENTION, subject="settlement", sentence=sentence))
    if parts.settling is not None and parts.settling.offline.trouble:
        sentence = f"channel states are not signed offline: {parts.settling.offline.trouble}"
        found.append(Problem(severity=Verdict.ATTENTION, subject="TPM counter", sentence=sentence))
    found += token_problems(parts.token)
    found += protection_problems(parts.token, parts.settings.token.key_protection)
    found += control_problems(parts.control)
    found += windows_problems(parts.windows)
    found += link_problems(parts.link, parts.now.monotonic_s)
    for status in parts.devices:
        found += device_problems(status, controls.get(status.device_id))
    return found


def device_line(
    status: DeviceStatus, *, settled: bool, reading: Reading | None, control: DeviceControl | None
) -> DeviceLine:
    """One device, from its driver, its newest committed reading and its order."""
    sample = status.last_sample
    charge = sample.state_of_charge_permille if sample is not None else None
    if charge is None and status.vehicle is not None:
        charge = status.vehicle.state_of_charge_permille
    return DeviceLine(
        device_id=status.device_id,
        kind=status.kind.value,
        link=status.link.value,
        detail=status.detail,
        settled=settled,
        power_w=sample.power_w if sample is not None and status.link is LinkState.ONLINE else None,
        import_wh=_whole(None if reading is None else reading.import_register_milliwatt_hours),
        export_wh=_whole(None if reading is None else reading.export_register_milliwatt_hours),
        state_of_charge_percent=None if charge is None else charge // 10,
        vehicle=_vehicle(status.vehicle),
        lowest_w=None if control is None else control.lowest_w,
        highest_w=None if control is None else control.highest_w,
        reason="" if control is None else control.reason,
    )


def command_line(command: CommandControl) -> CommandLine:
    """One command."""
    return CommandLine(
        command_id=command.command_id,
        text=command.text,
        state=command.state.name.lower(),
        start_us=command.start_us,
        end_us=command.end_us,
        in_force=command.in_force,
        reason=command.reason,
    )


def device_problems(status: DeviceStatus, control: DeviceControl | None) -> list[Problem]:
    """What is wrong with a device. One that is silent needs a look; the site goes on without it."""
    found = []
    if status.link in (LinkState.SILENT, LinkState.FAULT):
        found.append(Problem(severity=Verdict.ATTENTION, subject=status.device_id, sentence=status.detail))
    if control is not None and control.trouble and status.link is LinkState.ONLINE:
        found.append(Problem(severity=Verdict.ATTENTION, subject=status.device_id, sentence=control.trouble))
    if status.kind is DeviceKind.CHARGER and status.capabilities is None and status.link is LinkState.STARTING:
        found.append(
            Problem(severity=Verdict.ATTENTION, subject=status.device_id, sentence="the charger has not connected yet")
        )
    return found


def control_problems(control: ControlSnapshot) -> list[Problem]:
    """What a person must know of control."""
    found = []
    if control.stopped_by is not None:
        sentence = f"local STOP by {control.stopped_by} holds; clear it when the reason has gone"
        found.append(Problem(severity=Verdict.ATTENTION, subject="stop", sentence=sentence))
    for wired in control.inputs:
        if wired.active:
            found.append(
                Problem(severity=Verdict.ATTENTION, subject=wired.name, sentence=f"this input is active: {wired.text}")
            )
        if wired.trouble:
            found.append(Problem(severity=Verdict.TROUBLE, subject=wired.name, sentence=wired.trouble))
    if control.safe_mode is not None:
        found.append(Problem(severity=Verdict.ATTENTION, subject="safe mode", sentence=control.safe_mode))
    if not control.time_known:
        sentence = "the time has not been trusted since the reboot: only what restricts is obeyed"
        found.append(Problem(severity=Verdict.ATTENTION, subject="clock", sentence=sentence))
    if control.store_trouble:
        found.append(Problem(severity=Verdict.TROUBLE, subject="store", sentence=control.store_trouble))
    return found


def token_detail(token: TokenStatus) -> str:
    """Which token it is or what is wrong, what it can do, how fast it signs: batches wait for it, readings do not."""
    if token.state is not TokenState.READY:
        return token.detail
    can = [f"has {', '.join(token.mechanisms)}"] if token.mechanisms else []
    rate = [] if token.signature_s is None else [f"signs in {token.signature_s * 1000:.1f} ms"]
    return "; ".join([token.detail, *can, *rate])


def token_problems(status: TokenStatus) -> list[Problem]:
    """A token that cannot sign: readings wait in the store; and one that was put back."""
    found = []
    if status.put_back:
        found.append(Problem(severity=Verdict.ATTENTION, subject="token file", sentence=status.put_back))
    if status.state is TokenState.READY:
        faults = status.key_faults.values()
        return found + [Problem(severity=Verdict.TROUBLE, subject="token", sentence=fault) for fault in faults]
    severity = Verdict.ATTENTION if status.state is TokenState.STARTING else Verdict.TROUBLE
    sentence = f"{status.detail}; readings are stored and wait for their signature"
    return [*found, Problem(severity=severity, subject="token", sentence=sentence)]


def protection_problems(status: TokenStatus, said: str) -> list[Problem]:
    """A module that keeps keys in files, and a configuration by which each batch says otherwise."""
    if status.names is None or said == "software" or "softhsm" not in status.names.model.lower():
        return []
    sentence = (
        f"the keys are in files ({status.names.model}), and by the configuration each batch says that a "
        f'{"TPM" if said == "tpm" else "certified module"} holds them: set [token] key_protection = "software"'
    )
    return [Problem(severity=Verdict.TROUBLE, subject="token", sentence=sentence)]


def link_problems(status: UplinkStatus | None, monotonic_s: float) -> list[Problem]:
    """A link that is down: the gateway goes on, and what it measures waits. Why it is down stands with the parts.

    And what the platform said that cannot be right, and devices that it does not take: the link may well be up.
    """
    found = []
    if status is not None and not status.connected:
        down_s = max(0.0, monotonic_s - status.since_monotonic_s)
        sentence = f"no link to the platform for {down_s:.0f} s; readings wait, and stored commands are obeyed"
        found.append(Problem(severity=Verdict.ATTENTION, subject="link", sentence=sentence))
    if status is not None and status.carrier is Carrier.DEVICE_STREAMS:
        for device_id, sentence in status.device_details.items():
            found.append(Problem(severity=Verdict.ATTENTION, subject=device_id, sentence=sentence))
    if status is not None and status.oddity:
        ago_s = max(0.0, monotonic_s - status.oddity_monotonic_s)
        sentence = f"{status.oddity} ({ago_s:.0f} s ago; the signed alarms have them all)"
        found.append(Problem(severity=Verdict.ATTENTION, subject="platform", sentence=sentence))
    return found


def _whole(milliwatt_hours: int | None) -> int | None:
    return None if milliwatt_hours is None else milliwatt_hours // 1000


def _vehicle(session: VehicleSession | None) -> str:
    if session is None:
        return ""
    if session.transaction_id is None:
        return "a car is plugged in and not authorised"
    return f"a car of {session.token_id}" if session.token_id else "a car"
