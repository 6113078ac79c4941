"""Prometheus metrics, made from one snapshot at each scrape: nothing is counted twice, nothing is kept here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.status import Snapshot, Verdict


class SnapshotCollector(Collector):
    """Turns a snapshot into metrics. Energy in Wh and power in W, + import, - export."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterator[Metric]:
        """Nothing at registration: there may be no device yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per quantity; absent values are left out, never 0."""
        now = self._snapshot()
        yield from _devices(now)
        for name, text, value in (
            ("v2g_gateway_uptime_seconds", "Since the agent started", now.uptime_s),
            ("v2g_gateway_control_age_seconds", "Since the control loop made progress", now.control_age_s),
            ("v2g_gateway_stopped", "Local STOP is pressed", float(now.stopped_by is not None)),
            ("v2g_gateway_safe_mode", "The site is in safe mode", float(now.safe_mode is not None)),
            ("v2g_gateway_trouble", "0 well, 1 attention, 2 trouble", float(list(Verdict).index(now.verdict))),
            ("v2g_gateway_statements_queued", "Stored, not sealed", float(now.evidence.queued)),
            ("v2g_gateway_batches_waiting", "Sealed, not acknowledged", float(now.evidence.batches_waiting)),
            ("v2g_gateway_store_bytes", "Space that evidence takes", float(now.evidence.store_bytes)),
            ("v2g_gateway_store_most_bytes", "Space that it may take", float(now.evidence.store_most_bytes)),
            ("v2g_gateway_commands_in_force", "Commands in force", float(sum(c.in_force for c in now.commands))),
            ("v2g_gateway_windows_waiting", "Closed, not countersigned", float(now.settlement.windows_waiting)),
            ("v2g_gateway_flexibility_up_watts", "Power towards export", float(now.envelope.power_up_w)),
            ("v2g_gateway_flexibility_down_watts", "Power towards import", float(now.envelope.power_down_w)),
            ("v2g_gateway_missed_in_a_row", "Windows in a row", float(now.envelope.windows_missed_in_a_row)),
            ("v2g_gateway_channels_frozen", "Channels in conflict", float(now.settlement.channels_frozen)),
        ):
            yield GaugeMetricFamily(name, text, value)
        for name, text, count in (
            ("v2g_gateway_readings", "Readings measured and stored", now.evidence.readings),
            ("v2g_gateway_statements_sealed", "Statements in sealed batches", now.evidence.sealed),
            ("v2g_gateway_statements_acknowledged", "Statements acknowledged", now.evidence.acknowledged),
            ("v2g_gateway_readings_merged", "Readings merged to save space", now.evidence.merged),
            ("v2g_gateway_windows_missed", "Windows the platform missed", now.envelope.windows_missed),
            ("v2g_gateway_windows_closed", "Settlement windows closed", now.settlement.windows_closed),
            ("v2g_gateway_windows_countersigned", "Windows countersigned", now.settlement.windows_countersigned),
        ):
            yield CounterMetricFamily(name, text, count)
        yield from _deviation(now)
        yield from _certificates(now)
        parts = GaugeMetricFamily("v2g_gateway_part_ok", "1 when the part works", labels=["part"])
        for part in now.parts:
            parts.add_metric([part.name], float(part.ok))
        yield parts


def _certificates(now: Snapshot) -> Iterator[Metric]:
    labels = ["certificate"]
    ends = GaugeMetricFamily("v2g_gateway_certificate_end_timestamp_seconds", "When it ends", labels=labels)
    failures = GaugeMetricFamily(
        "v2g_gateway_certificate_renewal_failures", "Tries to renew it in a row that failed", labels=labels
    )
    for line in now.certificates:
        ends.add_metric([line.name], line.ends_us / 1e6)
        if line.renewed_by:
            failures.add_metric([line.name], float(line.failures))
    yield from (ends, failures)


def _deviation(now: Snapshot) -> Iterator[Metric]:
    told = now.deviation
    for name, text, count in (
        ("v2g_gateway_schedule_quarters", "Quarters of an hour under a schedule", told.quarters),
        ("v2g_gateway_schedule_under_watt_hours", "Less than agreed", told.under_wh),
        ("v2g_gateway_schedule_over_watt_hours", "More than agreed", told.over_wh),
    ):
        yield CounterMetricFamily(name, text, count)
    cost = CounterMetricFamily("v2g_gateway_schedule_penalty", "What it would cost, units", labels=["currency"])
    for currency, micro in told.penalties_micro.items():
        cost.add_metric([currency], micro / 1_000_000)
    yield cost
    labels = ["feed", "currency"]
    value = GaugeMetricFamily("v2g_gateway_feed_value", "Millionths per kWh, or mHz: as last agreed on", labels=labels)
    age = GaugeMetricFamily("v2g_gateway_feed_age_seconds", "Since its sources agreed", labels=labels)
    for feed in now.feeds:
        value.add_metric([feed.feed, feed.currency], float(feed.value))
        age.add_metric([feed.feed, feed.currency], feed.age_s)
    yield from (value, age)


def _devices(now: Snapshot) -> Iterator[Metric]:
    labels = ["device", "kind"]
    power = GaugeMetricFamily("v2g_device_power_watts", "+ import, - export", labels=labels)
    imported = CounterMetricFamily("v2g_device_import_watt_hours", "Import register", labels=labels)
    exported = CounterMetricFamily("v2g_device_export_watt_hours", "Export register", labels=labels)
    charge = GaugeMetricFamily("v2g_device_state_of_charge_percent", "Battery or vehicle", labels=labels)
    online = GaugeMetricFamily("v2g_device_online", "1 when the device answers", labels=labels)
    for device in now.devices:
        key = [device.device_id, device.kind]
        online.add_metric(key, float(device.link == "online"))
        for family, value in (
            (power, device.power_w),
            (imported, device.import_wh),
            (exported, device.export_wh),
            (charge, device.state_of_charge_percent),
        ):
            if value is not None:
                family.add_metric(key, value)
    yield from (power, imported, exported, charge, online)
