"""Whether a message of the platform is a command that may be obeyed here: the decision alone, pure.

The order of the checks is that of proto/COMMANDS.md section 5. What fails before a signature has held is refused under
the hash of the message as it came, so that a forgery can never end the real command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from agent.config import UnsignedCommands
from agent.control.authorization import Authorization, decode_authorization
from agent.control.book import Book
from agent.control.command import (
    MAX_NAME,
    Command,
    Mode,
    power_limit_kw,
    price_per_kwh_cents,
    same_float32,
)
from agent.control.entry import Entry
from agent.control.errors import CommandFormatError, quoted
from agent.control.order import Now, Order, Rank
from agent.control.ordered import DAY_US, Ordered, ordered_by, total
from agent.control.plain import plain_command, plain_hash
from agent.control.replay import Freshness
from agent.control.signers import RefusalError, check_reach, ordering_of, required, resolved, trusted_signers
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import CommandState
from agent.identity.trust import IssuerRights, Role, TrustList
from proto.energysettlement.v1 import device_pb2

HORIZON_US: Final = 7 * 86_400 * 1_000_000
HIGH_VALUE_WH: Final = 10_000_000
HIGH_VALUE_MICRO: Final = 10_000 * 1_000_000
"""10,000 units, of whatever currency the price is in: the platform's figure is in USD."""
HIGH_VALUE_HOURS: Final = 4
"""At the site's rating (SAFETY 10)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What this site accepts, from its configuration."""

    gateway_id: str
    zones: Set[str]
    unsigned: UnsignedCommands
    controllable: Set[str]
    """Device ids that commands can be for."""
    site_rating_w: int
    classes: Mapping[str, Set[str]] = field(default_factory=dict)
    """By class, such as "battery": the devices of it that can be controlled."""

    @property
    def audiences(self) -> frozenset[str]:
        return frozenset({self.gateway_id, *(f"zone:{zone}" for zone in self.zones)})

    @property
    def high_value_wh(self) -> int:
        return min(HIGH_VALUE_WH, self.site_rating_w * HIGH_VALUE_HOURS)


@dataclass(frozen=True, slots=True)
class Nothing:
    """No command: an acknowledgement alone."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """To be obeyed, as far as the plan can."""

    order: Order


@dataclass(frozen=True, slots=True)
class Refused:
    """Not to be obeyed; a receipt says why."""

    hash: bytes
    """What the receipt is about: the body, once its signature has held; else the message as it came."""
    command_id: str
    reason: str
    order: Order | None = None
    """Set when the signature held: the refusal is then remembered."""
    alarm: bool = False
    """Equivocation: the issuer said two things under one number, or one id stands for two commands."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Known: the same receipts again, and nothing else."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Undecided:
    """Cannot be judged now; ask again soon, and refuse with this reason when it takes too long."""

    reason: str
    restrictive: bool


Decision: TypeAlias = Nothing | Admitted | Refused | Duplicate | Undecided


def judge(
    message: device_pb2.GridCommand,
    device_id: str | None,
    policy: Policy,
    trust: TrustList | None,
    book: Book,
    now: Now,
    agreed: Callable[[str], Ordered] = lambda _: Ordered(),
) -> Decision:
    """What to do with a message. `device_id`: whose ConnectDevice stream it came on; None: by GatewayLink.

    `agreed`: what an issuer orders by its schedules in 24 h.
    """
    if not message.command_id and not message.authorization:
        return Nothing()
    as_it_came = plain_hash(message, device_id)
    command_id = message.command_id[:MAX_NAME]
    try:
        if not message.command_id:
            raise RefusalError("has no command_id")
        if len(message.command_id) > MAX_NAME:
            raise RefusalError(f"command_id has {len(message.command_id)} characters, at most {MAX_NAME} are right")
        if message.authorization:
            return _judge_signed(message, policy, trust, book, now, agreed)
        return _judge_unsigned(message, as_it_came, device_id, policy, book, now)
    except (RefusalError, CommandFormatError, EvidenceError) as error:
        return Refused(as_it_came, command_id, str(error), alarm=isinstance(error, RefusalError) and error.alarm)


# -- signed -------------------------------------------------------------------------------------------------------


def _judge_signed(
    message: device_pb2.GridCommand,
    policy: Policy,
    trust: TrustList | None,
    book: Book,
    now: Now,
    agreed: Callable[[str], Ordered],
) -> Decision:
    authorization = decode_authorization(message.authorization)
    known = book.entries.get(authorization.hash)
    if known is not None:
        return Duplicate(known)
    trust = required(trust)
    rights = trusted_signers(authorization, authorization.command.issuer, trust)
    _check_plain_fields(message, authorization)
    ordering = ordering_of(rights)
    order = Order(
        hash=authorization.hash,
        command_id=message.command_id,
        command=authorization.command,
        issuer_key=ordering.key.key_id,
        rank=Rank.GOVERNANCE if any(r.role is Role.GOVERNANCE for r in rights) else Rank.OPERATIONAL,
        received_us=now.wall_us,
        received_uptime_us=0 if now.time_known else now.uptime_us,
        authorization=message.authorization,
    )
    twice = _number_twice(order, book)
    if twice is None:
        # Known no more, but used: it has had its final receipt long ago, and must not get another one.
        _check_fresh(order, book)
    # From here on the issuer has said this: a refusal is one of the body itself, and is remembered.
    try:
        targets = resolved(order.command.targets, policy.classes)
        order = replace(order, command=replace(order.command, targets=targets))
        _check_address(order.command, policy)
        _check_single_meaning(order, twice, book)
        if not now.time_known and not order.command.restrictive:
            return Undecided("the time is not known since the reboot", restrictive=False)
        if now.time_known:
            _check_time(order.command, now)
            _check_expiry(order.command, rights, trust, now)
        for entry in rights:
            _check_rights(order.command, entry, policy)
        if len(rights) == 1:
            _check_value(order.command, policy, book, now, agreed(order.command.issuer))
        _check_room(order.command, book)
    except RefusalError as error:
        return Refused(order.hash, order.command_id, str(error), order, error.alarm)
    return Admitted(order)


def _check_plain_fields(message: device_pb2.GridCommand, authorization: Authorization) -> None:
    command = authorization.command
    differing = [
        name
        for name, same in (
            ("type", int(message.type) == int(command.type)),
            ("power_limit_kw", same_float32(message.power_limit_kw, power_limit_kw(command.power_w))),
            ("price_per_kwh_cents", same_float32(message.price_per_kwh_cents, price_per_kwh_cents(command.price))),
            ("valid_until_timestamp_us", message.valid_until_timestamp_us == command.end_us),
            ("command_hash", message.command_hash == authorization.hash),
        )
        if not same
    ]
    if differing:
        raise RefusalError(f"plain fields are not those of the signed body: {', '.join(differing)}")


def _check_address(command: Command, policy: Policy) -> None:
    if command.audience not in policy.audiences:
        raise RefusalError(f"is for {quoted(command.audience)}, which is not here")
    strangers = sorted(set(command.targets) - policy.controllable)
    if strangers:
        raise RefusalError(f"names {quoted(', '.join(strangers))}, which cannot be controlled here")
    if not policy.controllable:
        raise RefusalError("nothing can be controlled at this site")


def _number_twice(order: Order, book: Book) -> Entry | None:
    """Another command that the issuer has signed with the same number."""
    sequence = order.command.sequence
    return next(
        (
            entry
            for entry in book.entries.values()
            # First what tells nearly all of them apart: a book may hold two thousand.
            if entry.order.command.sequence == sequence
            and entry.order.issuer_key == order.issuer_key
            and entry.order.command.audience == order.command.audience
            and entry.order.age_of_word() == order.age_of_word()
            and entry.state is not CommandState.REJECTED
        ),
        None,
    )


def _check_fresh(order: Order, book: Book) -> None:
    command = order.command
    freshness = book.window(order.issuer_key, command.audience).judge(command.epoch, command.sequence)
    if freshness is not Freshness.FRESH:
        raise RefusalError(f"epoch {command.epoch} sequence {command.sequence} is {freshness.value}")


def _check_single_meaning(order: Order, twice: Entry | None, book: Book) -> None:
    """One number and one id stand for one command; two are proof that somebody equivocates."""
    if twice is not None:
        raise RefusalError(
            f"epoch {order.command.epoch} sequence {order.command.sequence} was signed for command "
            f"{twice.order.hash.hex()[:16]} already: the issuer has said two things with one number",
            alarm=True,
        )
    same_id = book.known_by_id(order.command_id)
    if same_id is not None:
        raise RefusalError(
            f"command_id {quoted(order.command_id)} already stands for command {same_id.order.hash.hex()[:16]}",
            alarm=True,
        )


def _check_time(command: Command, now: Now) -> None:
    if command.end_us <= now.wall_us:
        raise RefusalError(f"expired {(now.wall_us - command.end_us) // 1_000_000} s ago")
    if command.end_us > now.wall_us + HORIZON_US:
        raise RefusalError("ends beyond the horizon of 7 days")


def _check_expiry(command: Command, signers: Sequence[IssuerRights], trust: TrustList, now: Now) -> None:
    """Of two signatures neither may be by rights that are over: what remains is one."""
    for rights in signers:
        if rights.expired(now.wall_us):
            raise RefusalError(f"the rights of {quoted(rights.issuer)} have expired")
    if trust.expired(now.wall_us) and not command.restrictive:
        raise RefusalError(f"trust list version {trust.version} has expired: only IDLE and CURTAIL are obeyed")


def _check_rights(command: Command, rights: IssuerRights, policy: Policy) -> None:
    """Each signature must be by somebody who may order this."""
    who = quoted(rights.issuer)
    check_reach(rights, command.audience, command.targets, policy.gateway_id, policy.classes)
    if int(command.type) not in rights.types:
        raise RefusalError(f"{who} has no right to order {command.type.name}")
    if command.mode is Mode.SETPOINT and command.power_w > rights.highest_power_w:
        raise RefusalError(f"{who} may order at most {rights.highest_power_w} W, not {command.power_w} W")
    if int(command.priority) < rights.highest_priority:
        raise RefusalError(f"{who} has no right to priority {command.priority.name}")


def _check_value(command: Command, policy: Policy, book: Book, now: Now, agreed: Ordered) -> None:
    """One signature is enough up to the bound, added up over a day whatever the campaign says (SAFETY 10)."""
    if command.restrictive:
        return
    sums = total([ordered_by(command), book.ordered(command.issuer, now.wall_us - DAY_US), agreed])
    needed = "an operational and a governance signature are needed (local bound: dual control)"
    if sums.energy_wh > policy.high_value_wh:
        raise RefusalError(
            f"with it this issuer orders {sums.energy_wh} Wh in 24 h; above {policy.high_value_wh} Wh {needed}"
        )
    if command.price is not None and sums.value_micro > HIGH_VALUE_MICRO:
        raise RefusalError(
            f"with it this issuer orders what is worth {sums.value_micro // 1_000_000} {command.price.currency} in "
            f"24 h; above 10,000 {needed}"
        )


def _check_room(command: Command, book: Book) -> None:
    if not book.room_for(command):
        raise RefusalError("too many commands are stored; wait until some have ended, or cancel some")


# -- unsigned -----------------------------------------------------------------------------------------------------


def _judge_unsigned(
    message: device_pb2.GridCommand,
    as_it_came: bytes,
    device_id: str | None,
    policy: Policy,
    book: Book,
    now: Now,
) -> Decision:
    known = book.entries.get(as_it_came)
    if known is not None:
        return Duplicate(known)
    command = plain_command(
        message, device_id, gateway_id=policy.gateway_id, sequence=book.next_unsigned_sequence(), now=now
    )
    if policy.unsigned is UnsignedCommands.REFUSE:
        raise RefusalError("is not signed, and this site obeys signed commands only")
    if policy.unsigned is UnsignedCommands.RESTRICTIVE and not command.restrictive:
        raise RefusalError(
            f"is not signed, and this site obeys only IDLE and CURTAIL unsigned, not {command.type.name}"
        )
    if book.known_by_id(message.command_id) is not None:
        raise RefusalError(f"command_id {quoted(message.command_id)} already stands for another command", alarm=True)
    _check_address(command, policy)
    if not now.time_known and not command.restrictive:
        return Undecided("the time is not known since the reboot", restrictive=False)
    if now.time_known:
        _check_time(command, now)
    _check_value(command, policy, book, now, Ordered())
    _check_room(command, book)
    return Admitted(
        Order(
            hash=as_it_came,
            command_id=message.command_id,
            command=command,
            issuer_key=b"",
            rank=Rank.UNSIGNED,
            received_us=now.wall_us,
            received_uptime_us=0 if now.time_known else now.uptime_us,
        )
    )
