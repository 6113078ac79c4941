"""The platform's books as JSON: what it got from each gateway, for a person, a test, or the demo's scoring.

    {"platform_id", "written_us", "gateways": {GATEWAY_ID: {
      "name", "batches_verified", "batches_repeated", "batches_rejected", "receipts_verified", "receipts_rejected",
      "last_batch": {"incarnation", "number", "root"} | null, "statements": {KIND: count},
      "devices": {DEVICE_ID: {"readings", "live_readings", "sequences": [[incarnation, first, last], ...], "missing",
                              "digest"}},
      "windows": {DEVICE_ID: [[start_us, end_us, revision, import_wh, export_wh, quality], ...]},
      "channels": {DEVICE_ID: {"countersigned", "refused": [reason, ...], "forks", "newest": {...} | null}},
      "commands": [{"command_id", "command_hash", "signed", "type", "mode", "point", "power_w", "targets", "start_us",
                    "end_us", "receipts": [{"state", "timestamp_us", "reason", "delivered_energy_wh", ...}, ...]}, ...],
      "alarms": [{"timestamp_us", "severity", "code", "subject", "text"}, ...], "conflicts": [text, ...]}}}

`readings` are those that are safe here, `live_readings` those only shown; `receipts_*` count the COSE receipts
of readings on devices' streams. `digest` is SHA-256, hex, over the concatenated SHA-256 of the reading statements in
order of (incarnation, sequence).
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.evidence.statements import Alarm, CommandReceipt
from agent.ledger.state import SignedState
from hil_tests.rig.platform.audit import Audit
from hil_tests.rig.platform.channels import Channels
from hil_tests.rig.platform.orders import Issued


def gateway_json(
    audit: Audit, channels: Channels, commands: Sequence[tuple[Issued, Sequence[CommandReceipt]]], conflicts: list[str]
) -> dict[str, object]:
    """One gateway's page of the books."""
    position = audit.position
    return {
        "name": audit.enrolled.name,
        "batches_verified": audit.batches_verified,
        "batches_repeated": audit.batches_repeated,
        "batches_rejected": audit.batches_rejected,
        "receipts_verified": audit.receipts_verified,
        "receipts_rejected": audit.receipts_rejected,
        "last_batch": None
        if position is None
        else {"incarnation": position.incarnation, "number": position.number, "root": position.root.hex()},
        "statements": dict(sorted(audit.statement_counts.items())),
        "devices": {
            device_id: {
                "readings": len(record.digests),
                "live_readings": record.live_count,
                "sequences": [list(run) for run in record.ranges()],
                "missing": record.missing(),
                "digest": record.digest(),
            }
            for device_id, record in sorted(audit.devices.items())
        },
        "windows": {
            device_id: [
                [w.window_start_us, w.window_end_us, w.revision, w.import_wh, w.export_wh, int(w.quality)]
                for w in windows
            ]
            for device_id, windows in sorted(audit.windows.items())
        },
        "commands": [
            {
                **command_json(issued),
                "receipts": [receipt_json(r) for r in receipts],
            }
            for issued, receipts in commands
        ],
        "channels": {
            device_id: {
                "countersigned": channels.countersigned[device_id],
                "refused": channels.refusals[device_id],
                "forks": channels.forks[device_id],
                "newest": _state_json(channels.held(device_id)),
            }
            for device_id in channels.device_ids
        },
        "alarms": [alarm_json(alarm) for alarm in audit.alarms],
        "conflicts": conflicts,
    }


def _state_json(signed: SignedState | None) -> dict[str, object] | None:
    if signed is None:
        return None
    state = signed.state
    return {
        "channel_id": state.channel_id.hex(),
        "incarnation": state.incarnation,
        "version": state.version,
        "window_start_us": state.window_start_us,
        "window_end_us": state.window_end_us,
        "import_wh": state.import_wh,
        "export_wh": state.export_wh,
        "net_wh": state.net_wh,
        "quality": int(state.quality),
        "digest": state.digest.hex(),
        "gateway_signature": signed.gateway_signature.hex(),
        "platform_signature": signed.platform_signature.hex(),
    }


def command_json(issued: Issued) -> dict[str, object]:
    command = issued.command
    return {
        "command_id": issued.message.command_id,
        "command_hash": issued.hash.hex(),
        "signed": bool(issued.message.authorization),
        "type": command.type.name,
        "mode": command.mode.name,
        "point": command.point.name,
        "power_w": command.power_w,
        "targets": list(command.targets),
        "start_us": command.start_us,
        "end_us": command.end_us,
    }


def receipt_json(receipt: CommandReceipt) -> dict[str, object]:
    return {
        "command_id": receipt.command_id,
        "command_hash": receipt.command_hash.hex(),
        "state": receipt.state.name,
        "timestamp_us": receipt.timestamp_us,
        "reason": receipt.reason,
        "delivered_energy_wh": receipt.delivered_energy_wh,
    }


def alarm_json(alarm: Alarm) -> dict[str, object]:
    return {
        "timestamp_us": alarm.timestamp_us,
        "severity": alarm.severity.name,
        "code": alarm.code,
        "subject": alarm.subject,
        "text": alarm.text,
    }
