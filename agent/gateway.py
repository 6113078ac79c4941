"""The composition root: builds the parts of one gateway, runs each in a task of its own, and ends them in order.

Everything starts with everything else away. What needs the gateway's name (sealing, settling, the link) begins once the
token has shown its evidence key for the first time ever; its public half is remembered from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import structlog

from agent.clock import Clock, ClockQuality
from agent.config import Settings, read_secret
from agent.control.controller import Controller
from agent.control.errors import ControlError
from agent.evidence.batch import KeyProtection, SealedBatch
from agent.evidence.seal import SealPolicy
from agent.evidence.statements import Severity
from agent.identity.did import did_of
from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem
from agent.identity.purposes import EVIDENCE_KEY, UPLINK_KEY, device_key
from agent.identity.trust import TrustList
from agent.roads import overview
from agent.roads.alarms import Alarms
from agent.roads.desk import Desk
from agent.roads.devices import channel_terms, make_devices, metered
from agent.roads.facts import facts, installed_version
from agent.roads.linking import make_uplink
from agent.roads.measuring import Measuring
from agent.roads.sealing import Sealer
from agent.roads.settling import SettledDevice, Settling
from agent.roads.site_ca import bring_up_site_ca
from agent.roads.supervise import Supervisor, cancel_all
from agent.roads.telemetry import live_telemetry
from agent.roads.trusting import TrustKeeper
from agent.status import EvidenceLine, Problem, Snapshot, Verdict
from agent.store import Store, StoreError
from agent.token.token import Token
from agent.uplink.errors import LinkDownError
from agent.uplink.session import UplinkIdentity
from agent.uplink.uplink import Uplink
from drivers.device import Sample, SignerUnavailableError
from drivers.ocpp.reception import Reception
from drivers.ocpp.server import OcppServer
from firmware_attest.measurement import installed_root, measure_software
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame

CLOCK_NOTE: Final = "clock"
CLOCK_NOTE_EVERY_S: Final = 60.0
UPKEEP_EVERY_S: Final = 600.0
COME_UP_RETRY_S: Final = 1.0
ENROLMENT_RETRY_S: Final = 10.0
JUST_BOOTED_S: Final = 300.0
"""Linux counts monotonic time from its boot: a gateway that starts so early has come up with its machine."""
TLS_SIGN_S: Final = 10.0
LAST_SEAL_S: Final = 5.0
LAST_SEND_S: Final = 3.0

T = TypeVar("T")

log = structlog.get_logger()


class StartError(Exception):
    """The gateway cannot run at all. Says why, and what to do."""


class Gateway:
    """One gateway. Made by `open`, run by `run`, ended by `shut_down`."""

    def __init__(self, settings: Settings, *, store: Store, clock: Clock, token: Token) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._token = token
        self._boot_id = secrets.token_bytes(16)
        self._started_s = clock.monotonic_s()
        self._version = installed_version()
        self._gateway_id = ""
        self._problems: dict[str, Problem] = {}
        self._trust: TrustKeeper | None = None
        self._uplink: Uplink | None = None
        self._settling: Settling | None = None
        self._sealer: Sealer | None = None
        self._supervisor = Supervisor(clock.monotonic_s)
        self._desk = Desk(store, clock.monotonic_s)
        self._alarms = Alarms(self._desk, lambda: clock.now().wall_us)
        self._site = make_devices(settings, store=store, clock=clock, on_event=self._alarms.warn)
        self._measuring = Measuring(
            [metered(device) for device in settings.device],
            desk=self._desk,
            clock=clock,
            incarnation=store.incarnation,
            boot_id=self._boot_id,
        )
        self._controller = Controller(
            devices=self._site.devices,
            device_settings=settings.device,
            site=settings.site,
            control=settings.control,
            bounds=settings.bounds,
            inputs=settings.input,
            record_folder=settings.gateway.state_dir / "decisions",
            software=self._version,
            frequency=settings.frequency,
            gateway_id=lambda: self._gateway_id,
            stop_file=settings.control.gateway_stop_file or settings.gateway.state_dir / "STOP",
            clock=clock,
            trust=self._trust_list,
            desk=self._desk,
            notes=store,
            booted=self._started_s < JUST_BOOTED_S,
        )
        self._counts = EvidenceLine(readings=0, queued=0, sealed=0, acknowledged=0, batches_waiting=0)
        self._core_tasks: list[asyncio.Task[None]] = []
        self._up_tasks: list[asyncio.Task[None]] = []
        self._device_tasks: list[asyncio.Task[None]] = []

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(settings: Settings) -> AsyncIterator[Gateway]:
        """A gateway over the state directory, with nothing running but the token's thread. Raises StartError."""
        try:
            store = await Store.open(settings.gateway.state_dir)
        except (StoreError, OSError) as error:
            raise StartError(f"the store in {settings.gateway.state_dir}: {error}") from error
        async with store:
            clock = Clock(restored=await store.note(CLOCK_NOTE))
            token = Token(
                module=settings.token.module,
                label=settings.token.label,
                serial=settings.token.serial,
                read_pin=lambda: read_secret(settings.token.pin_secret),
            )
            token.start()
            try:
                gateway = Gateway(settings, store=store, clock=clock, token=token)
                await gateway._restore()
                yield gateway
                await gateway._note_clock()
            finally:
                await token.close()

    async def _restore(self) -> None:
        await self._measuring.restore(self._store)
        if self._store.set_aside is not None:
            text = (
                f"the database was damaged and is set aside as {self._store.set_aside.name}; this is a new incarnation"
            )
            self._alarms.raise_alarm(Severity.CRITICAL, "store.set_aside", "store", text)
        if self._clock.rebooted:
            log.info("clock.rebooted")
        await self._refresh_counts()

    # -- Life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run every part until `shut_down`."""
        async with asyncio.TaskGroup() as group:
            keep = self._supervisor.keep
            for name, part in (
                ("control", self._controller.run),
                ("measuring", self._measuring.run),
                ("alarms", self._alarms.run),
                ("upkeep", self._upkeep),
            ):
                self._core_tasks.append(keep(group, name, part))
            if self._site.ocpp is not None:
                self._device_tasks.append(keep(group, "ocpp", self._site.ocpp.run))
            for device in self._site.devices.values():
                part = functools.partial(device.run, self._on_sample)
                self._device_tasks.append(keep(group, f"device {device.device_id}", part))
            self._up_tasks.append(self._supervisor.once(group, "come up", functools.partial(self._come_up, group)))

    async def _come_up(self, group: asyncio.TaskGroup) -> None:
        """What needs the gateway's name, as soon as it is known; then what needs the platform's, once enrolled.

        Started again after a fault: what is up already stays as it is.
        """
        if self._sealer is None:
            await self._begin_sealing(group)
        if self._uplink is None:
            await self._link_up(group)

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of a step, tried until neither the token nor the store stands in its way: both show why."""
        waits = False
        while True:
            try:
                return await step()
            except (SignerUnavailableError, StoreError) as error:
                if not waits:
                    log.info("gateway.waits", reason=str(error))
                waits = True
                await asyncio.sleep(COME_UP_RETRY_S)

    async def _begin_sealing(self, group: asyncio.TaskGroup) -> None:
        journal = self._store.journal("token")
        evidence = await self._patiently(lambda: self._token.pinned_signer(EVIDENCE_KEY, journal))
        self._gateway_id = did_of(evidence.public_key_der)
        log.info("gateway.identity", gateway_id=self._gateway_id, incarnation=self._store.incarnation)
        self._sealer = Sealer(
            store=self._store,
            desk=self._desk,
            clock=self._clock,
            signer=evidence,
            gateway_id=self._gateway_id,
            boot_id=self._boot_id,
            key_protection=KeyProtection[self._settings.token.key_protection.upper()],
            policy=SealPolicy(
                linger_s=self._settings.evidence.linger_s, linger_leaves=self._settings.evidence.linger_leaves
            ),
            on_sealed=self._on_sealed,
        )
        self._up_tasks.append(self._supervisor.keep(group, "sealing", self._sealer.run))
        state_facts = functools.partial(self._patiently, self._state_facts)
        self._up_tasks.append(self._supervisor.once(group, "facts", state_facts))
        if self._site.ocpp is not None and self._settings.ocpp.site_ca:
            certify = functools.partial(self._certify, self._site.ocpp)
            self._up_tasks.append(self._supervisor.once(group, "site CA", certify))

    async def _certify(self, server: OcppServer) -> None:
        """Certificates for chargers, as soon as the token is there."""
        await bring_up_site_ca(
            server,
            token=self._token,
            journal=self._store.journal("token"),
            state_dir=self._settings.gateway.state_dir,
            name=self._settings.gateway.name,
            clock=self._clock,
            note_problem=self.note_problem,
        )
        self._problems.pop("site CA", None)

    async def _state_facts(self) -> None:
        """What is true of this run from its start."""
        software = await asyncio.to_thread(measure_software, installed_root())
        await self._desk.put(
            facts(self._settings, version=self._version, software=software, now_us=self._clock.now().wall_us)
        )

    async def _link_up(self, group: asyncio.TaskGroup) -> None:
        platform = self._settings.platform
        if platform is None:
            return
        journal = self._store.journal("token")
        while True:
            try:
                platform_key = verify_key_from_pem(
                    await asyncio.to_thread(platform.platform_key_file.read_bytes), what=str(platform.platform_key_file)
                )
                root_key = verify_key_from_pem(
                    await asyncio.to_thread(platform.trust_root_file.read_bytes), what=str(platform.trust_root_file)
                )
                uplink_signer = await self._token.pinned_signer(UPLINK_KEY, journal)
                settled = [
                    SettledDevice(
                        device_id=device.id,
                        period_s=device.period_s,
                        signer=await self._token.pinned_signer(device_key(device.id), journal),
                        terms=channel_terms(self._settings, self._gateway_id, device.id),
                    )
                    for device in self._settings.device
                    if device.settled
                ]
                break
            except (SignerUnavailableError, StoreError) as error:
                log.info("gateway.waits", reason=str(error))
                await asyncio.sleep(COME_UP_RETRY_S)
            except (OSError, IdentityError) as error:
                self.note_problem("enrolment", f"{error}; enrol this gateway, then it connects by itself")
                await asyncio.sleep(ENROLMENT_RETRY_S)
        self._problems.pop("enrolment", None)
        self._trust = TrustKeeper(platform.trust_list_file, root_key, store=self._store, clock=self._clock)
        # Before the link: a command that it brings must not be refused because nobody has looked yet.
        await self._trust.look()
        self._settling = Settling(
            settled,
            store=self._store,
            desk=self._desk,
            clock=self._clock,
            platform_key=platform_key,
            window_s=self._settings.settlement.window_s,
            send=self._send_channel,
            commands_of=self._controller.commands_in_force,
        )
        await self._patiently(self._settling.restore)
        self._uplink = make_uplink(
            platform,
            identity=UplinkIdentity(
                gateway_id=self._gateway_id,
                incarnation=self._store.incarnation,
                boot_id=self._boot_id,
                software_version=self._version,
                device_ids=tuple(self._site.devices),
            ),
            signer=uplink_signer,
            sign_blocking=lambda digest: self._token.sign_blocking(UPLINK_KEY, digest, TLS_SIGN_S),
            platform_key=platform_key,
            outbox=self._store,
            clock=self._clock,
            settling=self._settling,
            on_command=self._controller.receive,
            on_alarm=self._alarms.warn,
        )
        for name, part in (
            ("trust list", self._trust.run),
            ("settling", self._settling.run),
            ("uplink", self._uplink.run),
        ):
            self._up_tasks.append(self._supervisor.keep(group, name, part))

    async def shut_down(self) -> None:
        """End in order: no more samples; what was measured is sealed, and sent while the link allows, within seconds.

        Setpoints are left to their leases: a restart takes over within seconds, and a box that stays away lets each
        device fall back by itself.
        """
        await cancel_all(self._device_tasks)
        with contextlib.suppress(StoreError):
            await self._measuring.commit_waiting()
        if self._sealer is not None:
            with contextlib.suppress(TimeoutError, StoreError, SignerUnavailableError):
                async with asyncio.timeout(LAST_SEAL_S):
                    while (await self._store.counts()).queued:
                        await self._sealer.seal_once()
        if self._uplink is not None and self._uplink.status().connected:
            with contextlib.suppress(TimeoutError, StoreError):
                async with asyncio.timeout(LAST_SEND_S):
                    while (await self._store.counts()).unacknowledged_batches:  # noqa: ASYNC110 - no event tells of it
                        await asyncio.sleep(0.05)
        await cancel_all(self._up_tasks)
        await cancel_all(self._core_tasks)
        self._site.connections.close()

    # -- In ---------------------------------------------------------------------------------------------------------

    def _on_sample(self, sample: Sample) -> None:
        self._controller.on_sample(sample)
        self._measuring.offer(sample)

    def _on_sealed(self, batch: SealedBatch) -> None:
        if self._uplink is None:
            return
        self._uplink.batch_ready()
        for device_id, telemetry in live_telemetry(batch):
            self._uplink.live(device_id, telemetry)

    async def _send_channel(self, frame: ChannelFrame) -> None:
        if self._uplink is None:
            raise LinkDownError("the link has not been set up yet")
        await self._uplink.send_channel(frame)

    def _trust_list(self) -> TrustList | None:
        return None if self._trust is None else self._trust.current

    async def _upkeep(self) -> None:
        """The clock's note each minute, pruning now and then, and the counts for the status page each second."""
        noted_s = pruned_s = float("-inf")
        noted_trust = False
        while True:
            now = self._clock.now()
            trusted = now.quality is not ClockQuality.UNTRUSTED
            await self._refresh_counts()
            # Trust that was just won is noted at once: whoever is killed now would start again without it.
            if now.monotonic_s - noted_s >= CLOCK_NOTE_EVERY_S or trusted != noted_trust:
                await self._note_clock()
                noted_s, noted_trust = now.monotonic_s, trusted
            if now.monotonic_s - pruned_s >= UPKEEP_EVERY_S and trusted:
                await self._store.prune(now.wall_us, self._settings.evidence.retain_days)
                pruned_s = now.monotonic_s
            await asyncio.sleep(1.0)

    async def _note_clock(self) -> None:
        """Keep the clock's state over a restart. What cannot be kept on a full disk costs trust, and nothing else."""
        try:
            await self._store.set_note(CLOCK_NOTE, self._clock.state())
        except StoreError as error:
            log.warning("gateway.clock_not_noted", reason=str(error))

    async def _refresh_counts(self) -> None:
        counts = await self._store.counts()
        self._counts = EvidenceLine(
            readings=self._measuring.readings,
            queued=counts.queued,
            sealed=counts.sealed_statements,
            acknowledged=counts.sealed_statements - counts.unacknowledged_statements,
            batches_waiting=counts.unacknowledged_batches,
        )

    # -- Faces ------------------------------------------------------------------------------------------------------

    async def stop(self, by: str) -> None:
        """Local STOP."""
        self._controller.stop(by)

    async def clear_stop(self, by: str) -> None:
        """End of local STOP; while its file cannot be removed it holds, and the page says so."""
        try:
            self._controller.clear_stop(by)
            self._problems.pop("stop file", None)
        except ControlError as error:
            self.note_problem("stop file", str(error))

    def override(self, device_id: str, power_w: int | None, duration_s: float, by: str) -> str:
        """Hold a device by hand; a sentence of what was done. Raises ValueError."""
        try:
            return f"{device_id} is {self._controller.override(device_id, power_w, duration_s, by).sentence}"
        except ControlError as error:
            raise ValueError(str(error)) from error

    def end_override(self, device_id: str, by: str) -> str:
        """Give it back. Raises ValueError."""
        try:
            self._controller.end_override(device_id, by)
        except ControlError as error:
            raise ValueError(str(error)) from error
        return f"{device_id} is held no more"

    @property
    def reception(self) -> Reception | None:
        """The chargers, for people at the box."""
        return None if self._site.ocpp is None else self._site.ocpp.reception

    def reload_tokens(self) -> int:
        """Read the file of allowed tokens again. Raises ValueError; the old ones stay then."""
        return self._site.reload_tokens(self._settings)

    def note_problem(self, subject: str, sentence: str) -> None:
        """Something that a person should see to."""
        if subject not in self._problems:
            log.warning("gateway.problem", subject=subject, sentence=sentence)
        self._problems[subject] = Problem(severity=Verdict.ATTENTION, subject=subject, sentence=sentence)

    def snapshot(self) -> Snapshot:
        """Everything at one moment. Cheap."""
        return overview.snapshot(
            overview.Parts(
                settings=self._settings,
                version=self._version,
                gateway_id=self._gateway_id,
                incarnation=self._store.incarnation,
                boot_id=self._boot_id,
                started_s=self._started_s,
                now=self._clock.now(),
                control=self._controller.snapshot(),
                control_progress_s=self._controller.progress_s,
                token=self._token.status,
                link=None if self._uplink is None else self._uplink.status(),
                evidence=self._counts,
                latest=self._measuring.latest,
                store_trouble=self._measuring.trouble,
                trust=self._trust_list(),
                trust_trouble="" if self._trust is None else self._trust.trouble,
                settling=self._settling,
                devices=[device.status() for device in self._site.devices.values()],
                unmade=self._site.problems,
                down=self._supervisor.down,
                noted=tuple(self._problems.values()),
            )
        )
