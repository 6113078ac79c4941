"""The composition root: builds the parts of one gateway, runs each in a task of its own, and ends them in order.

Everything starts with everything else away. What needs the gateway's name (sealing, settling, the link) begins once the
token has shown its evidence key for the first time ever; its public half is remembered from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import structlog

from agent.clock import Clock
from agent.config import Settings
from agent.control.controller import Controller
from agent.control.decision_log import RECORD
from agent.control.errors import ControlError
from agent.control.feed_keeper import FeedKeeper
from agent.evidence.batch import KeyProtection, SealedBatch
from agent.evidence.seal import SealPolicy
from agent.evidence.statements import Alarm, Severity
from agent.identity.orders import Order
from agent.roads import overview, restored
from agent.roads.adopting import Approvals
from agent.roads.alarms import Alarms
from agent.roads.desk import Desk
from agent.roads.devices import make_devices, metered
from agent.roads.facts import facts, installed_version, keep_stating, tpm_quote
from agent.roads.feeding import feed_rules
from agent.roads.identity import IdentityKeeper
from agent.roads.measuring import Measuring
from agent.roads.offering import Offering, Sources
from agent.roads.patience import patiently
from agent.roads.people import People
from agent.roads.platform_side import PlatformSide
from agent.roads.problems import Problems
from agent.roads.publishing import Publication
from agent.roads.record_key import protect_record
from agent.roads.renewals import certificate_watch
from agent.roads.sealing import Sealer
from agent.roads.sealing_keys import second_key_problem, wait_countersigner, wait_name_and_key
from agent.roads.site_ca import certify_chargers
from agent.roads.store_key import configured_store, tell_sealed, wait_store
from agent.roads.supervise import Supervisor, cancel_all
from agent.roads.thinning import make_thinner
from agent.roads.upkeep import CLOCK_NOTE, Upkeep
from agent.status import Snapshot
from agent.store import LockedStore, Store, StoreError
from agent.token.configured import configured_token
from agent.token.token import Token
from agent.uplink.session import UplinkIdentity
from drivers.device import Device, Sample, SignerUnavailableError
from firmware_attest.measurement import installed_root, measure_software

JUST_BOOTED_S: Final = 300.0
"""Linux counts monotonic time from its boot: a gateway that starts so early has come up with its machine."""
LAST_SEAL_S: Final = 5.0
LAST_SEND_S: Final = 3.0

log = structlog.get_logger()


class StartError(Exception):
    """The gateway cannot run at all. Says why, and what to do."""


@contextlib.contextmanager
def _told_at_start(settings: Settings) -> Iterator[None]:
    """What is wrong with the store, in words, and not as a fault of the agent's own."""
    try:
        yield
    except (StoreError, OSError) as error:
        raise StartError(f"the store in {settings.gateway.state_dir}: {error}") from error


class Gateway:
    """One gateway. Made by `open`, run by `run`, ended by `shut_down`."""

    def __init__(
        self, settings: Settings, *, store: Store, clock: Clock, token: Token, approvals: Approvals | None = None
    ) -> None:
        self._approvals = Approvals(settings, store) if approvals is None else approvals
        self._settings = settings = self._approvals.settings
        self._store = store
        self._clock = clock
        self._token = token
        self._boot_id = secrets.token_bytes(16)
        self._started_s = clock.monotonic_s()
        self._version = installed_version()
        self._gateway_id = ""
        self._problems = Problems()
        self._identity = IdentityKeeper(
            settings.gateway.state_dir, token=token, store=store, clock=clock, on_entry=self._on_identity_entry
        )
        self._desk = Desk(store, clock.monotonic_s)
        self._alarms = Alarms(self._desk, lambda: clock.now().wall_us)
        self._platform = PlatformSide(
            settings.platform,
            store=store,
            token=token,
            clock=clock,
            desk=self._desk,
            problems=self._problems,
            on_alarm=self._alarms.warn,
        )
        self.publication = Publication(
            store,
            self._identity,
            public_url=settings.web.public_url,
            gateway_id=lambda: self._gateway_id,
            acknowledgement=self._platform.acknowledgement,
            trust_list=self._platform.signed_trust_list,
        )
        self._sealer: Sealer | None = None
        self._supervisor = Supervisor(clock.monotonic_s)
        self._site = make_devices(
            settings,
            store=store,
            clock=clock,
            on_event=self._alarms.warn,
            adopted=self._approvals.kept,
            adopt=self._adopt,
        )
        self._measuring = Measuring(
            [metered(device) for device in settings.device],
            desk=self._desk,
            clock=clock,
            incarnation=store.incarnation,
            boot_id=self._boot_id,
        )
        self._certificates = certificate_watch(
            settings,
            token=token,
            store=store,
            clock=clock,
            gateway_id=lambda: self._gateway_id,
            prove=self._platform.prove_certificate,
            renewed_uplink=self._platform.certificate_renewed,
            server_use=None if self._site.ocpp is None else self._site.ocpp.use_certificate,
            on_alarm=self._alarms.raise_alarm,
        )
        feeds = FeedKeeper(feed_rules(settings.feeds, self._problems.note))
        self._controller = Controller(
            devices=self._site.devices,
            device_settings=settings.device,
            site=settings.site,
            control=settings.control,
            bounds=settings.bounds,
            inputs=settings.input,
            # Nothing of a site whose store is to be encrypted lies beside it in the clear.
            record_folder=None if isinstance(store, LockedStore) else settings.gateway.state_dir / RECORD,
            record_sealing=store.content,
            software=self._version,
            frequency=settings.frequency,
            gateway_id=lambda: self._gateway_id,
            stop_file=settings.control.gateway_stop_file or settings.gateway.state_dir / "STOP",
            clock=clock,
            trust=self._platform.trust_list,
            desk=self._desk,
            notes=store,
            booted=self._started_s < JUST_BOOTED_S,
            feeds=feeds,
        )
        self._thinner = make_thinner(settings, store=store, desk=self._desk, clock=clock, alarms=self._alarms)
        self._offering = Offering(
            Sources(
                view=lambda: self._controller.view,
                acknowledged=self._platform.acknowledged_number,
                offer=self._platform.offer,
                say=self._alarms.raise_alarm,
            ),
            clock=clock,
            notes=store,
            aggregator_id="" if settings.platform is None else settings.platform.aggregator_id,
        )
        self.people = People(
            self._controller,
            offering=self._offering,
            site=self._site,
            reload_tokens=lambda: self._site.reload_tokens(self._settings),
        )
        self._upkeep = Upkeep(
            store,
            clock=clock,
            measuring=self._measuring,
            thinner=self._thinner,
            most_bytes=settings.evidence.most_mib << 20,
        )
        self.unlocked = asyncio.Event()
        """The store's key or room, away when this was opened, is there: end this one and open another."""
        self._core_tasks: list[asyncio.Task[None]] = []
        self._up_tasks: list[asyncio.Task[None]] = []
        self._device_tasks: list[asyncio.Task[None]] = []
        self._group: asyncio.TaskGroup | None = None
        """While it runs."""

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(settings: Settings, *, alarms: Sequence[Alarm] = ()) -> AsyncIterator[Gateway]:
        """A gateway over the state directory, with nothing running but the token's thread. Raises StartError.

        Where the store's key, or room for it, is away it has none, and does what needs none: see `unlocked`. `alarms`:
        what the one before, which had none, could not record.
        """
        with _told_at_start(settings):
            store = await configured_store(settings)
        async with store:
            locked = isinstance(store, LockedStore)
            with _told_at_start(settings):
                clock = Clock(restored=None if locked else await store.note(CLOCK_NOTE))
            token = configured_token(settings.token, settings.gateway.state_dir)
            token.start()
            try:
                with _told_at_start(settings):
                    approvals = Approvals(settings, store) if locked else await Approvals.recall(settings, store)
                    gateway = Gateway(settings, store=store, clock=clock, token=token, approvals=approvals)
                    gateway._alarms.take_over(alarms)
                    if isinstance(store, LockedStore):
                        code = "store.no_room" if store.lacks_room else "store.locked"
                        gateway._alarms.raise_alarm(Severity.CRITICAL, code, "store", store.why)
                    else:
                        await gateway._restore()
                yield gateway
                await gateway._upkeep.note_clock()
            finally:
                await token.close()

    @property
    def unrecorded(self) -> tuple[Alarm, ...]:
        """Alarms that wait to be recorded."""
        return self._alarms.waiting

    async def _restore(self) -> None:
        await self._measuring.restore(self._store)
        await self._thinner.restore()
        await protect_record(self._store, self._settings.gateway.state_dir, self._problems)
        await self.publication.restore()
        await restored.tell(self._store, self._desk, self._alarms, self._problems, self._clock.now().wall_us)
        await tell_sealed(self._settings, self._alarms, self._problems)
        if self._clock.rebooted:
            log.info("clock.rebooted")
        await self._upkeep.count()

    # -- Life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run every part until `shut_down`."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            keep = self._supervisor.keep
            for name, part in (
                ("control", self._controller.run),
                ("measuring", self._measuring.run),
                ("alarms", self._alarms.run),
                ("offering", self._offering.run),
                ("upkeep", self._upkeep.run),
                ("certificates", self._certificates.run),
                ("publication", self.publication.run),
                ("space", self._thinner.run),
            ):
                self._core_tasks.append(keep(group, name, part))
            for renewal in self._certificates.renewals:
                self._core_tasks.append(keep(group, f"renewal of certificate {renewal.name}", renewal.run))
            if self._site.ocpp is not None:
                self._device_tasks.append(keep(group, "ocpp", self._site.ocpp.run))
            for device in self._site.devices.values():
                self._run_device(group, device)
            if isinstance(self._store, LockedStore):
                wait = functools.partial(wait_store, self._settings, self._store, self._problems, self.unlocked)
                self._up_tasks.append(self._supervisor.once(group, "store", wait))
            else:
                self._up_tasks.append(self._supervisor.once(group, "come up", functools.partial(self._come_up, group)))

    def _run_device(self, group: asyncio.TaskGroup, device: Device) -> None:
        part = functools.partial(device.run, self._on_sample)
        self._device_tasks.append(self._supervisor.keep(group, f"device {device.device_id}", part))

    async def _adopt(self, charger_id: str, password_secret: str, evses: int) -> None:
        """Make an approved charger one of the site, now and over restarts. Raises ValueError, SecretError, StoreError;
        nothing has changed then."""
        if self._group is None:
            raise ValueError("the gateway is not running yet")
        made = await self._approvals.adopt(
            charger_id, password_secret, evses, site=self._site, measuring=self._measuring, alarms=self._alarms
        )
        self._settings = self._approvals.settings
        for section, device in made:
            self._controller.add(section, device)
            self._run_device(self._group, device)
            self._platform.device_added(section.id)
        # The metering tree and the settings that bear on it are others now.
        self._up_tasks.append(
            self._supervisor.once(self._group, "facts", functools.partial(patiently, self._state_facts))
        )

    async def _come_up(self, group: asyncio.TaskGroup) -> None:
        """What needs the gateway's name, as soon as it is known; then what needs the platform's, once enrolled.

        Started again after a fault: what is up already stays as it is.
        """
        if self._sealer is None:
            await self._begin_sealing(group)
        linked = await self._platform.bring_up(
            self._settings, identity=self._uplink_identity, controller=self._controller
        )
        for name, part in linked:
            self._up_tasks.append(self._supervisor.keep(group, name, part))

    async def _begin_sealing(self, group: asyncio.TaskGroup) -> None:
        self._gateway_id, evidence = await wait_name_and_key(self._identity, self._problems)
        if self._token.status.put_back:
            text = self._token.status.put_back
            self._alarms.raise_alarm(Severity.WARNING, "token.put_back", "token file", text)
        log.info("gateway.identity", gateway_id=self._gateway_id, incarnation=self._store.incarnation)
        countersigner = await wait_countersigner(self._settings, self._token, self._problems)
        state = self._identity.state
        problem = second_key_problem(None if state is None else state.subject.countersigner, countersigner)
        if problem:
            self._problems.note("second key", problem)
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
            countersigner=countersigner,
        )
        self._up_tasks.append(self._supervisor.keep(group, "sealing", self._sealer.run))
        orders = functools.partial(self._identity.run, self._sealer)
        self._up_tasks.append(self._supervisor.keep(group, "identity", orders))
        stating = functools.partial(keep_stating, self._state_facts)
        self._up_tasks.append(self._supervisor.keep(group, "facts", stating))
        if self._site.ocpp is not None and self._settings.ocpp.site_ca:
            certify = functools.partial(
                certify_chargers,
                self._site.ocpp,
                self._settings,
                token=self._token,
                journal=self._store.journal("token"),
                clock=self._clock,
                problems=self._problems,
            )
            self._up_tasks.append(self._supervisor.once(group, "site CA", certify))

    def _on_identity_entry(self, order: Order) -> None:
        text = f"entry {order.number} of its history: {order.kind.name.lower()}"
        self._alarms.raise_alarm(Severity.INFO, "identity.entry", "identity", text)
        self._platform.introduce_again()

    async def _state_facts(self) -> None:
        """What is true of this run from its start."""
        software = await asyncio.to_thread(measure_software, installed_root())
        stated = functools.partial(facts, self._settings, version=self._version, software=software, quote=tpm_quote)
        await self._desk.put(await asyncio.to_thread(stated, now_us=self._clock.now().wall_us))

    def _uplink_identity(self) -> UplinkIdentity:
        return UplinkIdentity(
            gateway_id=self._gateway_id,
            incarnation=self._store.incarnation,
            boot_id=self._boot_id,
            software_version=self._version,
            device_ids=tuple(self._site.devices),
            history=self._identity.encoded_history,
        )

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
        link = self._platform.link()
        if link is not None and link.connected:
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
        self.publication.sealed(batch)
        self._platform.sealed(batch)

    # -- Faces ------------------------------------------------------------------------------------------------------

    async def stop(self, by: str) -> None:
        """Local STOP."""
        self._controller.stop(by)

    async def clear_stop(self, by: str) -> None:
        """End of local STOP; while its file cannot be removed it holds, and the page says so."""
        try:
            self._controller.clear_stop(by)
            self._problems.solved("stop file")
        except ControlError as error:
            self._problems.note("stop file", str(error))

    def note_problem(self, subject: str, sentence: str) -> None:
        """Something that a person should see to."""
        self._problems.note(subject, sentence)

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
                link=self._platform.link(),
                evidence=self._upkeep.counts,
                latest=self._measuring.latest,
                store_trouble=self._store.trouble or self._measuring.trouble,
                encrypted=not self._store.content.is_plain,
                room_trouble=self._thinner.trouble,
                trust=self._platform.trust_list(),
                trust_trouble=self._platform.trust_trouble,
                identity_trouble=self._identity.trouble,
                settling=self._platform.settling,
                devices=[device.status() for device in self._site.devices.values()],
                unmade=self._site.problems,
                envelope=self._offering.envelope,
                windows=self._offering.windows,
                down=self._supervisor.down,
                noted=(*self._problems.noted, *self._certificates.problems),
                certificates=self._certificates.line,
                certificate_lines=self._certificates.lines,
            )
        )
