"""Identities and orders in words for people, and as JSON for machines."""

from __future__ import annotations

from datetime import UTC, datetime

from agent.identity import history
from agent.identity.document import Json
from agent.identity.enrolment import fingerprint_words
from agent.identity.history import IdentityState
from agent.identity.orders import Kind, Order
from agent.identity.subject import Party


def moment(moment_us: int) -> str:
    """A moment for people, UTC."""
    try:
        return datetime.fromtimestamp(moment_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{moment_us} us"


def state_facts(state: IdentityState) -> dict[str, Json]:
    """For machines."""
    epochs: list[Json] = [
        {
            "number": epoch.number,
            "algorithm": epoch.key.algorithm,
            "key_id": epoch.key.key_id.hex(),
            "after": None if epoch.after is None else list(epoch.after.place),
            "until": None if epoch.until is None else list(epoch.until.place),
            "over": epoch.over,
            "countersigner": None if epoch.countersigner is None else epoch.countersigner.key_id.hex(),
        }
        for epoch in state.epochs
    ]
    return {
        "entries": state.number + 1,
        "head": state.head.hex(),
        "owner": state.subject.owner.name,
        "operator": state.subject.operator.name,
        "epochs": epochs,
    }


def state_lines(state: IdentityState) -> list[str]:
    """For people."""
    epoch = state.epochs[-1]
    since = "" if epoch.after is None else f", since {epoch.after.text}"
    return [
        f"Owner {state.subject.owner.name}, operator {state.subject.operator.name}",
        f"Key epoch {epoch.number}: {epoch.key.key_id.hex()[:16]}, COSE algorithm {epoch.key.algorithm}{since}",
        f"History of {state.number + 1} entries, newest {state.head.hex()[:16]} of {moment(state.applied_us)}",
    ]


def order_facts(order: Order) -> dict[str, Json]:
    """For machines."""
    gateway_id = order.gateway_id or history.identifier_of(order)
    return {
        "kind": order.kind.name.lower(),
        "gateway_id": gateway_id,
        "fingerprint": fingerprint_words(gateway_id),
        "number": order.number,
        "key_id": order.key.key_id.hex(),
        "owner": order.subject.owner.name,
        "operator": order.subject.operator.name,
        "order_hash": order.hash.hex(),
    }


def _party(party: Party) -> str:
    recovery = "none" if party.recovery is None else party.recovery.hex()[:16]
    return f"{party.name} ({party.key.key_id.hex()[:16]}; recovery key: {recovery})"


def order_lines(order: Order) -> list[str]:
    """For whoever is about to sign it: everything that it says."""
    subject = order.subject
    gateway_id = order.gateway_id or history.identifier_of(order)
    place = subject.location
    where = (
        "none" if place is None else f"{place.latitude / 1e6:g}, {place.longitude / 1e6:g} (to {place.grid / 1e6:g})"
    )
    lines = [
        f"Order to {order.kind.name.lower()}, entry {order.number} of {gateway_id}",
        f"  fingerprint {fingerprint_words(gateway_id)}",
        f"  evidence key {order.key.key_id.hex()[:16]}, COSE algorithm {order.key.algorithm}",
        f"  owner {_party(subject.owner)}",
        f"  operator {_party(subject.operator)}",
        f"  location {where}",
    ]
    lines += [
        f"  rating of {r.device_id or 'the site'}: {r.name} {r.value} {r.unit}, {r.certificate}"
        for r in subject.ratings
    ]
    lines += [
        f"  device {d.device_id}: serial number {d.serial_number or 'unknown'}"
        f"{', own key' if d.key else ''}{', meter key' if d.meter_key else ''}"
        f"{', charger certificate' if d.charger_certificate else ''}"
        for d in subject.devices
    ]
    if subject.countersigner is not None:
        lines.append(f"  second key {subject.countersigner.key_id.hex()[:16]}, which countersigns each root")
    if order.recovery_key is not None:
        lines.append(f"  by the recovery key {order.recovery_key.key_id.hex()[:16]}")
    if order.kind is Kind.RECOVER:
        believed = "nothing" if order.believed is None else f"batches up to {order.believed.text}"
        lines.append(f"  of the key before, {believed} is believed")
    return lines
