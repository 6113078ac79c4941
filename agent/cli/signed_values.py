"""What `verify` shows of values that meters signed themselves: for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from agent.evidence.signed_values import SignedValueCheck
from drivers.device import SignatureVerdict

MOST_SESSIONS_SHOWN = 20


def signed_values_lines(found: SignedValueCheck) -> Iterator[str]:
    """Nothing where no meter signed."""
    if not found.verdicts:
        return
    counts = ", ".join(f"{found.verdicts[verdict]} {verdict.name.lower()}" for verdict in SignatureVerdict)
    yield f"Signed by meters themselves: {counts}; {found.signed_readings} readings have their registers from them."
    for device_id, fingerprints in sorted(found.keys.items()):
        yield f"  {device_id}: compare the meter's own key with SHA-256 {', '.join(sorted(fingerprints))}"
    sessions = found.sessions()
    for session in sessions[-MOST_SESSIONS_SHOWN:]:
        energies = [
            f"{name} {energy / 1_000_000:.3f} kWh"
            for name, energy in (
                ("import", session.imported_milliwatt_hours),
                ("export", session.exported_milliwatt_hours),
            )
            if energy is not None
        ]
        yield f"  {session.device_id}, transaction {session.transaction_id}: {', '.join(energies)} from begin to end"
    if len(sessions) > MOST_SESSIONS_SHOWN:
        yield f"  and {len(sessions) - MOST_SESSIONS_SHOWN} transactions before; --json has all"
    if found.absent:
        yield f"  {found.absent} signed values that readings name are not in this file."


def signed_values_json(found: SignedValueCheck) -> dict[str, object]:
    """The same for machines."""
    return {
        **{verdict.name.lower(): found.verdicts[verdict] for verdict in SignatureVerdict},
        "signed_readings": found.signed_readings,
        "absent": found.absent,
        "meter_keys": {device_id: sorted(fingerprints) for device_id, fingerprints in sorted(found.keys.items())},
        "sessions": [
            {
                "device_id": session.device_id,
                "transaction_id": session.transaction_id,
                "meter_key": session.fingerprint,
                "import_milliwatt_hours": session.imported_milliwatt_hours,
                "export_milliwatt_hours": session.exported_milliwatt_hours,
            }
            for session in found.sessions()
        ],
    }
