"""The platform's side: trust list, settling and link, once enrolled; until then who asks for them gets nothing.

Made before whatever asks it (control, certificates, the page), and brought up after: what it brings goes to them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from agent.clock import Clock
from agent.config import PlatformSettings, Settings
from agent.control.controller import Controller
from agent.evidence.batch import SealedBatch
from agent.identity.purposes import UPLINK_KEY
from agent.identity.trust import TrustList
from agent.roads.desk import Desk
from agent.roads.enrolled import wait_enrolled
from agent.roads.linking import make_uplink, prove_certificate
from agent.roads.patience import patiently
from agent.roads.problems import Problems
from agent.roads.settling import Settling
from agent.roads.telemetry import live_telemetry
from agent.roads.trusting import TrustKeeper
from agent.store import Store
from agent.token.counter import FILE as COUNTER_FILE
from agent.token.counter import TpmCounter, open_counter
from agent.token.token import Token
from agent.token.tpm import TpmError
from agent.uplink.errors import LinkDownError
from agent.uplink.listener import OnAlarm
from agent.uplink.session import UplinkIdentity
from agent.uplink.status import UplinkStatus
from agent.uplink.uplink import Uplink
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame, FlexibilityBid

TLS_SIGN_S: Final = 10.0

NamedPart = tuple[str, Callable[[], Awaitable[None]]]


class PlatformSide:
    """One for the gateway. Brought up by `bring_up`, once; without a [platform] it stays down."""

    def __init__(
        self,
        platform: PlatformSettings | None,
        *,
        store: Store,
        token: Token,
        clock: Clock,
        desk: Desk,
        problems: Problems,
        on_alarm: OnAlarm,
    ) -> None:
        self._platform = platform
        self._store = store
        self._token = token
        self._clock = clock
        self._desk = desk
        self._problems = problems
        self._on_alarm = on_alarm
        self._trust: TrustKeeper | None = None
        self._uplink: Uplink | None = None
        self.settling: Settling | None = None

    async def bring_up(
        self, settings: Settings, *, identity: Callable[[], UplinkIdentity], controller: Controller
    ) -> Sequence[NamedPart]:
        """As soon as the gateway is enrolled: the parts to keep running. `identity` is asked again when the link is
        made: devices may be adopted meanwhile. Called again after a fault: what is up stays as it is."""
        platform = self._platform
        if platform is None or self._uplink is not None:
            return ()
        enrolled = await wait_enrolled(
            platform,
            settings,
            identity().gateway_id,
            token=self._token,
            journal=self._store.journal("token"),
            problems=self._problems,
        )
        self._trust = TrustKeeper(platform.trust_list_file, enrolled.roots, store=self._store, clock=self._clock)
        # Before the link: a command that it brings must not be refused because nobody has looked yet.
        await self._trust.look()
        self.settling = Settling(
            enrolled.settled,
            store=self._store,
            desk=self._desk,
            clock=self._clock,
            platform_key=enrolled.platform_key,
            window_s=settings.settlement.window_s,
            send=self._send_channel,
            commands_of=controller.commands_in_force,
            counter=self._counter(settings),
        )
        await patiently(self.settling.restore)
        self._uplink = make_uplink(
            platform,
            identity=identity(),
            signer=enrolled.uplink,
            sign_blocking=self._sign_tls,
            platform_key=enrolled.platform_key,
            outbox=self._store,
            clock=self._clock,
            settling=self.settling,
            on_command=controller.receive,
            on_alarm=self._on_alarm,
            on_signed=controller.receive_signed,
        )
        return (
            ("trust list", self._trust.run),
            ("settling", self.settling.run),
            ("uplink", self._uplink.run),
        )

    def _sign_tls(self, digest: bytes) -> bytes:
        return self._token.sign_blocking(UPLINK_KEY, digest, TLS_SIGN_S)

    def _counter(self, settings: Settings) -> TpmCounter | None:
        try:
            return open_counter(settings.gateway.state_dir / COUNTER_FILE)
        except TpmError as error:
            self._problems.note("TPM counter", str(error))
            return None

    # -- Up ---------------------------------------------------------------------------------------------------------

    def sealed(self, batch: SealedBatch) -> None:
        """Send it, and show what is live in it."""
        if self._uplink is None:
            return
        self._uplink.batch_ready()
        for device_id, telemetry in live_telemetry(batch):
            self._uplink.live(device_id, telemetry)

    def offer(self, bid: FlexibilityBid) -> bool:
        """Whether there is a link that will take it."""
        if self._uplink is None:
            return False
        self._uplink.offer(bid)
        return True

    async def _send_channel(self, frame: ChannelFrame) -> None:
        if self._uplink is None:
            raise LinkDownError("the link has not been set up yet")
        await self._uplink.send_channel(frame)

    def introduce_again(self) -> None:
        """The history of the gateway's name has grown."""
        if self._uplink is not None:
            self._uplink.introduce_again()

    def device_added(self, device_id: str) -> None:
        """The site has another device."""
        if self._uplink is not None:
            self._uplink.device_added(device_id)

    async def prove_certificate(self, chain_pem: bytes) -> None:
        """Try a new client certificate on the platform. Raises UplinkError."""
        assert self._platform is not None
        await prove_certificate(self._uplink, self._platform, self._sign_tls, chain_pem)

    def certificate_renewed(self) -> None:
        """It is used from now on."""
        if self._uplink is not None:
            self._uplink.certificate_renewed()

    # -- What it tells ----------------------------------------------------------------------------------------------

    def trust_list(self) -> TrustList | None:
        """Who may order what; None: nobody is known."""
        return None if self._trust is None else self._trust.current

    def signed_trust_list(self) -> bytes:
        """As it was signed; empty: there is none."""
        return b"" if self._trust is None else self._trust.signed

    @property
    def trust_trouble(self) -> str:
        """Why there is no newer trust list; empty when nothing is wrong."""
        return "" if self._trust is None else self._trust.trouble

    def acknowledgement(self) -> bytes:
        """The newest, as the platform signed it; empty: none came yet."""
        return b"" if self._uplink is None else self._uplink.acknowledgement

    def acknowledged_number(self) -> int | None:
        """Of the newest batch that was acknowledged."""
        return None if self._uplink is None else self._uplink.status().acknowledged_number

    def link(self) -> UplinkStatus | None:
        """How the link stands; None: not set up yet."""
        return None if self._uplink is None else self._uplink.status()
