"""A pre-agreed schedule as a value: its signed body, and what it asks for now (proto/COMMANDS.md section 9). Pure.

A schedule is one power for each quarter of an hour. What it asks for now is given to the plan as the lowest of all
orders: any command goes before it, and the owner's default comes after.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agent.control.command import MAX_TIME_US, Command, CommandType, Mode, Point, Price
from agent.control.errors import CommandFormatError, RestoreError, quoted
from agent.control.order import Now, Order, Rank
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError, MalformedError
from agent.evidence.statements import CommandReceipt, decode, encode

BODY_VERSION: Final = 1
TYP: Final = "v2g-gateway/schedule+cose"
STEP_US: Final = 900 * 1_000_000
MAX_STEPS: Final = 672
"""Seven days, the horizon of commands."""
MAX_RANDOM_START_S: Final = 1800
MAX_BODY_BYTES: Final = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One schedule, checked on construction. Raises CommandFormatError."""

    audience: str
    targets: tuple[str, ...] = ()
    """Device ids; empty: all."""
    point: Point
    start_us: int
    """A quarter of an hour, UTC."""
    steps: tuple[int | None, ...]
    """W for each quarter, + import; None: nothing is agreed for it."""
    price: Price | None = None
    """What its energy is worth; where a spot price is known, deviation is reckoned by that."""
    random_start_s: int = 0
    """Each beginning after a time without agreement is put off by a random part of this."""
    issuer: str
    epoch: int = 0
    sequence: int

    def __post_init__(self) -> None:
        if self.start_us % STEP_US or not 0 <= self.start_us < MAX_TIME_US:
            raise CommandFormatError(f"schedule: start_us {self.start_us} is no quarter of an hour of UTC")
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise CommandFormatError(f"schedule: has {len(self.steps)} steps, 1 to {MAX_STEPS} are right")
        if not 0 <= self.random_start_s <= MAX_RANDOM_START_S:
            raise CommandFormatError(f"schedule: random_start_s {self.random_start_s} is outside 0 to 1800")
        # A command checks what they have in common.
        for power_w in {0, *(step for step in self.steps if step is not None)}:
            self.command(power_w, self.start_us, self.end_us)

    @property
    def end_us(self) -> int:
        return self.start_us + len(self.steps) * STEP_US

    @property
    def number(self) -> tuple[int, int]:
        """Orders the words of one issuer."""
        return (self.epoch, self.sequence)

    @property
    def all_steps(self) -> list[int]:
        """The powers that are agreed, W."""
        return [step for step in self.steps if step is not None]

    def command(self, power_w: int, start_us: int, end_us: int) -> Command:
        """What it asks for during a time, as a command that the plan can follow. Raises CommandFormatError."""
        try:
            return Command(
                audience=self.audience,
                targets=self.targets,
                mode=Mode.SETPOINT,
                point=self.point,
                type=CommandType.DISCHARGE if power_w < 0 else CommandType.CHARGE,
                power_w=abs(power_w),
                start_us=start_us,
                end_us=end_us,
                price=self.price,
                issuer=self.issuer,
                epoch=self.epoch,
                sequence=self.sequence,
            )
        except CommandFormatError as error:
            raise CommandFormatError(f"schedule: {str(error).removeprefix('command body: ')}") from error

    def run_at(self, at_us: int) -> tuple[int, int, int] | None:
        """(power, from, until) of the run of equal quarters that holds this moment; None: nothing is agreed then."""
        if not self.start_us <= at_us < self.end_us:
            return None
        index = (at_us - self.start_us) // STEP_US
        power_w = self.steps[index]
        if power_w is None:
            return None
        first = last = index
        while first > 0 and self.steps[first - 1] == power_w:
            first -= 1
        while last + 1 < len(self.steps) and self.steps[last + 1] == power_w:
            last += 1
        return power_w, self.start_us + first * STEP_US, self.start_us + (last + 1) * STEP_US

    def begins_us(self, at_us: int, delay_us: int) -> int:
        """When what is agreed around this moment begins, put off by the delay that was drawn."""
        index = (at_us - self.start_us) // STEP_US
        while index > 0 and self.steps[index - 1] is not None:
            index -= 1
        return self.start_us + index * STEP_US + delay_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """A schedule that was admitted, with what must be kept of it."""

    schedule: Schedule
    hash: bytes
    issuer_key: bytes
    received_us: int
    delay_us: int = 0
    """Drawn when it came, within its `random_start_s`."""
    signed: bytes = b""
    """As it came, for whoever must prove it later."""
    receipts: tuple[CommandReceipt, ...] = ()

    def order(self, now: Now) -> Order | None:
        """What it asks for now, as an order below every command; None: nothing."""
        if not now.time_known:
            return None
        run = self.schedule.run_at(now.wall_us)
        if run is None or now.wall_us < self.schedule.begins_us(now.wall_us, self.delay_us):
            return None
        power_w, from_us, until_us = run
        return Order(
            hash=self.hash,
            command_id=f"schedule {self.schedule.sequence}",
            command=self.schedule.command(power_w, from_us, until_us),
            issuer_key=self.issuer_key,
            rank=Rank.SCHEDULE,
            received_us=self.received_us,
        )

    def next_change_us(self, after_us: int) -> int | None:
        """The next moment at which it may ask for something else; None: it is over."""
        quarter_us = (after_us // STEP_US + 1) * STEP_US
        if quarter_us > self.schedule.end_us:
            return None
        if quarter_us <= self.schedule.start_us:
            return self.schedule.start_us
        begins_us = self.schedule.begins_us(after_us, self.delay_us)
        return begins_us if after_us < begins_us < quarter_us else quarter_us


def encode_schedule(schedule: Schedule) -> bytes:
    """The bytes that are signed and hashed."""
    price: cbor.Value = None if schedule.price is None else [schedule.price.micro_per_kwh, schedule.price.currency]
    return cbor.encode([
        BODY_VERSION, schedule.audience, list(schedule.targets), int(schedule.point), schedule.start_us,
        list(schedule.steps), price, schedule.random_start_s, schedule.issuer, schedule.epoch, schedule.sequence,
    ])  # fmt: skip


def decode_schedule(body: bytes) -> Schedule:
    """The schedule of a body. Raises CommandFormatError for all but the one encoding of a well-formed one."""
    try:
        value = cbor.decode(body, what="schedule", most_bytes=MAX_BODY_BYTES)
    except MalformedError as error:
        raise CommandFormatError(str(error)) from error
    match value:
        case [
            1, str(audience), list(targets), int(point), int(start_us), list(steps), price, int(random_start_s),
            str(issuer), int(epoch), int(sequence),
        ]:  # fmt: skip
            pass
        case _:
            raise CommandFormatError("schedule: not laid out as version 1")
    numbers = [
        value[0],
        point,
        start_us,
        random_start_s,
        epoch,
        sequence,
        *(step for step in steps if step is not None),
    ]
    if any(type(number) is not int for number in numbers) or not all(isinstance(target, str) for target in targets):
        raise CommandFormatError("schedule: a number or a target is of another kind")
    if point not in Point.__members__.values():
        raise CommandFormatError(f"schedule: point {quoted(point)} is not known")
    return Schedule(
        audience=audience,
        targets=tuple(str(target) for target in targets),
        point=Point(point),
        start_us=start_us,
        steps=tuple(step if isinstance(step, int) else None for step in steps),
        price=_price(price),
        random_start_s=random_start_s,
        issuer=issuer,
        epoch=epoch,
        sequence=sequence,
    )


def _price(value: cbor.Value) -> Price | None:
    match value:
        case None:
            return None
        case [int(micro), str(currency)] if type(micro) is int:
            return Price(micro, currency)
    raise CommandFormatError(f"schedule: price {quoted(value)} is neither null nor [micro-units, currency]")


def encode_agreed(agreed: Agreed) -> bytes:
    """For the store."""
    return cbor.encode([
        1, agreed.hash, encode_schedule(agreed.schedule), agreed.issuer_key, agreed.received_us, agreed.delay_us,
        agreed.signed, [encode(receipt) for receipt in agreed.receipts],
    ])  # fmt: skip


def decode_agreed(note: bytes) -> Agreed:
    """A stored schedule. Raises RestoreError."""
    try:
        value = cbor.decode(note, what="schedule note")
        match value:
            case [
                1, bytes(hash_), bytes(body), bytes(issuer_key), int(received_us), int(delay_us), bytes(signed),
                list(stored),
            ]:  # fmt: skip
                receipts = [decode(each) for each in stored if isinstance(each, bytes)]
                return Agreed(
                    schedule=decode_schedule(body),
                    hash=hash_,
                    issuer_key=issuer_key,
                    received_us=received_us,
                    delay_us=delay_us,
                    signed=signed,
                    receipts=tuple(each for each in receipts if isinstance(each, CommandReceipt)),
                )
    except (EvidenceError, CommandFormatError) as error:
        raise RestoreError(f"schedule note: {error}") from error
    raise RestoreError("schedule note: not laid out as version 1")


def clock(at_us: int) -> str:
    """For a sentence."""
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%MZ")
