"""Which devices carry a target, and with how much each: what loses and wears least. Pure integer arithmetic.

The field's unit commitment and economic dispatch, for one moment. Whoever moves pays a fixed loss, so a small total
goes to few; each further watt goes where it costs least, so a large one is spread as the loss curves say. To start, to
stop and to turn round cost something too: nothing flaps for a trifle. The memory is the band that each device holds,
which stands in the view: the same view gives the same choice.

Up to MOST_EXACT devices every set of them is tried: none costs less. Beyond, they are ranked by what a watt costs at
their best point (Lagrange's order), and the first so many are taken: at most the fixed loss of one device more than
the best, save where least powers stand in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Final

from agent.control.allocation import Range, fill
from agent.control.losses import Losses

MOST_EXACT: Final = 5
"""Devices of which every set is tried."""
LEAST_PERCENT: Final = 5
"""Of what it can do: with less none is set in motion beside another."""
START_PERCENT: Final = 125
"""Of its least charging power: a car does not start for a total that will not hold it."""
SPARE_PERCENT: Final = 95
"""None rests again before the others can carry the total with so much of what they can do."""
TURN_PPM: Final = 20_000
"""Of its rating: what turning round counts as."""
MOVES_W: Final = 100
"""Less power has no direction."""
LAST_PPM: Final = 500_000
"""Of what is moved: more than any wear, so that it goes last."""

Fits = Callable[[Mapping[str, int]], bool]
"""Whether what is behind the devices bears these powers: their phases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A device among which to choose."""

    range: Range
    losses: Losses
    rated_import_w: int
    rated_export_w: int
    """What its losses are told by."""
    now: Range | None = None
    """What of its range it can do in this plan; None: all."""
    lowest_w: int = 0
    """The band that it holds, or its power where it holds none."""
    highest_w: int = 0
    disobeys: bool = False
    """Nothing is staked on it."""
    spent: bool = False
    """Hardly any of its day's cycles is left."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What each device has."""

    powers: Mapping[str, int]
    """In this plan."""
    goals: Mapping[str, int]
    """Where it shall come to; another power only where `Carrier.now` stands between."""


def share(total_w: int, carriers: Mapping[str, Carrier], fits: Fits = lambda _: True) -> Shares:
    """Powers within the ranges, never further off the total than `allocation.fill` over all comes."""
    ranges = {name: carrier.range for name, carrier in carriers.items()}
    goals = over_all = fill(total_w, ranges)
    # What those must do that cannot rest is not to be made up for here.
    if total_w and len(carriers) > 1 and all(r.low <= 0 <= r.high for r in ranges.values()):
        goals = _Choice(total_w, carriers).best(_off(total_w, over_all), fits) or over_all
    if all(carrier.now is None for carrier in carriers.values()):
        return Shares(goals, goals)
    return Shares(_meanwhile(total_w, goals, carriers), goals)


def why_it_rests(mine: Carrier, total_w: int, others: Collection[Carrier]) -> str:
    """Why this device rests, and not one of those that carry the total: the largest of what counts against it."""
    sign = 1 if total_w > 0 else -1
    if _most_w(mine, sign) <= 0:
        return "it can take nothing now" if sign > 0 else "it can give nothing now"
    if mine.disobeys:
        return "it does not follow"
    if mine.spent and not all(other.spent for other in others):
        return "hardly any of its full cycles of the day is left"
    if _moves(mine, -sign) and not all(_moves(other, -sign) for other in others):
        return "it would have to turn round"
    if sign > 0 and mine.range.minimum * START_PERCENT // 100 > total_w:
        return f"it takes {mine.range.minimum} W at the least"
    if all(_wear_ppm(mine, sign) > _wear_ppm(other, sign) for other in others):
        return "it would be worn more"
    return "less is lost so"


def _off(total_w: int, powers: Mapping[str, int]) -> int:
    return abs(total_w - sum(powers.values()))


def _moves(carrier: Carrier, sign: int) -> bool:
    return (carrier.highest_w if sign > 0 else -carrier.lowest_w) >= MOVES_W


def _most_w(carrier: Carrier, sign: int) -> int:
    return carrier.range.high if sign > 0 else -carrier.range.low


def _wear_ppm(carrier: Carrier, sign: int) -> int:
    return carrier.losses.wear_in_ppm if sign > 0 else carrier.losses.wear_out_ppm


# -- the choice -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Offer:
    """What one device can do along the direction of the total; powers positive, costs in microwatts."""

    name: str
    bit: int
    most_w: int
    minimum_w: int
    least_w: int
    """Beside others."""
    start_w: int
    """For less it is not set in motion, if another can."""
    fixed: int
    """Of moving at all, with what changes by it."""
    stays: bool
    """It moves so already."""
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    """(what each watt costs there, ppm; from, W; to, W), beyond `least_w`."""
    least_cost: int = 0
    """Of `least_w`, beside what is fixed."""


def _offer(name: str, bit: int, carrier: Carrier, sign: int) -> _Offer | None:
    most_w = _most_w(carrier, sign)
    minimum_w = carrier.range.minimum if sign > 0 else 0
    if most_w <= 0 or most_w < minimum_w:
        return None
    rating_w = max(most_w, carrier.rated_import_w if sign > 0 else carrier.rated_export_w)
    stays = _moves(carrier, sign)
    least_w = max(most_w * LEAST_PERCENT // 100, minimum_w)
    idle = carrier.losses.fixed_of(rating_w)
    offer = _Offer(
        name=name,
        bit=bit,
        most_w=most_w,
        minimum_w=minimum_w,
        least_w=least_w,
        start_w=least_w if stays else max(least_w, minimum_w * START_PERCENT // 100),
        # Half of what it loses by moving at all is what starting it counts as, and what stopping it does.
        fixed=idle - idle // 2 if stays else idle + idle // 2,
        stays=stays and not carrier.disobeys,
    )
    if _moves(carrier, -sign):
        offer.fixed += TURN_PPM * rating_w
    beside_ppm = _wear_ppm(carrier, sign) + LAST_PPM * (carrier.disobeys + carrier.spent)
    from_w = 0
    slopes = carrier.losses.slopes
    for permille, slope_ppm in slopes:
        to_w = most_w if permille == slopes[-1][0] else min(most_w, rating_w * permille // 1000)
        ppm = slope_ppm + beside_ppm
        if from_w < least_w:
            offer.least_cost += ppm * (min(to_w, least_w) - from_w)
            from_w = min(to_w, least_w)
        if from_w < to_w:
            offer.steps.append((ppm, from_w, to_w))
            from_w = to_w
    return offer


class _Choice:
    """Sets of devices as bits of an integer, by name."""

    def __init__(self, total_w: int, carriers: Mapping[str, Carrier]) -> None:
        self._sign, self._amount_w = (1, total_w) if total_w > 0 else (-1, -total_w)
        found = (_offer(n, 1 << i, carriers[n], self._sign) for i, n in enumerate(sorted(carriers)))
        self._offers = [offer for offer in found if offer is not None]
        self._none = dict.fromkeys(carriers, 0)
        self._ladder = sorted((ppm, o.bit, from_w, to_w) for o in self._offers for ppm, from_w, to_w in o.steps)
        """What each further watt costs, the cheapest first."""
        self._staying = sum(offer.bit for offer in self._offers if offer.stays)

    def best(self, off_w: int, fits: Fits) -> dict[str, int] | None:
        """The cheapest powers that come as near to the total, and that the phases bear; None: no few do."""
        judged = [(key, chosen) for chosen in self._sets() if (key := self._key(chosen)) is not None]
        for (beside_w, *_), chosen in sorted(judged):
            if beside_w > off_w:
                break
            powers = self._powers(chosen)
            if fits(powers):
                return powers
        return None

    def _sets(self) -> Iterable[int]:
        offers, every = self._offers, sum(offer.bit for offer in self._offers)
        if len(offers) <= MOST_EXACT:
            sets = [0]
            for offer in offers:
                sets += [chosen | offer.bit for chosen in sets]
            return sets[1:]
        order = sorted(offers, key=lambda offer: (self._worth(offer), offer.name))
        firsts = list(accumulate((offer.bit for offer in order), initial=0))
        few, many = 1, len(order)
        while few < many:  # the fewest that together give as much for what the last of them costs
            middle = (few + many) // 2
            enough = self._given_w(firsts[middle], self._worth(order[middle - 1])) >= self._amount_w
            few, many = (few, middle) if enough else (middle + 1, many)
        counts = {few - 1, few, few + 1} | {few << more for more in range(1, len(order).bit_length())}
        sets_of_many = {firsts[count] for count in counts if 0 < count <= len(order)} | {every, self._staying}
        return sets_of_many - {0}

    def _worth(self, offer: _Offer) -> int:
        """What a watt costs where it costs least: ppm."""
        cost, found = offer.fixed + offer.least_cost, []
        if offer.least_w:
            found.append(cost // offer.least_w)
        for ppm, from_w, to_w in offer.steps:
            cost += ppm * (to_w - from_w)
            found.append(cost // to_w)
        return min(found)

    def _given_w(self, chosen: int, most_ppm: int) -> int:
        given_w = sum(offer.least_w for offer in self._offers if offer.bit & chosen)
        for ppm, bit, from_w, to_w in self._ladder:
            if ppm > most_ppm:
                break
            if bit & chosen:
                given_w += to_w - from_w
        return given_w

    def _key(self, chosen: int) -> tuple[int, bool, int, int] | None:
        """(W beside the total, whether it is better left, what it costs, fewer before more); None: it cannot be."""
        least_w = start_w = most_w = cost = 0
        for offer in self._offers:
            if offer.bit & chosen:
                least_w, start_w, most_w = least_w + offer.least_w, start_w + offer.start_w, most_w + offer.most_w
                cost += offer.fixed + offer.least_cost
        amount_w = self._amount_w
        left_w = amount_w - least_w
        if left_w < 0:
            alone = next((o for o in self._offers if o.bit == chosen), None)
            if alone is None or amount_w < alone.minimum_w:
                return None
            cost, left_w = alone.fixed + alone.least_cost * amount_w // least_w, 0
        for ppm, bit, from_w, to_w in self._ladder:
            if bit & chosen:
                width_w = to_w - from_w
                if width_w >= left_w:
                    cost, left_w = cost + ppm * left_w, 0
                    break
                cost, left_w = cost + ppm * width_w, left_w - width_w
        leaves = bool(self._staying & ~chosen) and amount_w * 100 > most_w * SPARE_PERCENT
        return left_w, start_w > amount_w or leaves, cost, chosen.bit_count() << len(self._none) | chosen

    def _powers(self, chosen: int) -> dict[str, int]:
        offers = {offer.bit: offer for offer in self._offers if offer.bit & chosen}
        amounts = {bit: offer.least_w for bit, offer in offers.items()}
        left_w = self._amount_w - sum(amounts.values())
        if left_w < 0:
            amounts = dict.fromkeys(amounts, self._amount_w)  # alone
        for _, steps in groupby((step for step in self._ladder if step[1] & chosen), key=itemgetter(0)):
            if left_w <= 0:
                break
            alike = {offers[bit].name: (bit, from_w, to_w) for _, bit, from_w, to_w in steps}
            begun_w = sum(from_w for _, from_w, _ in alike.values())
            reached = fill(begun_w + left_w, {n: Range(from_w, to_w) for n, (_, from_w, to_w) in alike.items()})
            amounts |= {alike[name][0]: reached_w for name, reached_w in reached.items()}
            left_w -= sum(reached.values()) - begun_w
        return self._none | {offers[bit].name: self._sign * amount_w for bit, amount_w in amounts.items()}


# -- on the way there -----------------------------------------------------------------------------------------------


def _meanwhile(total_w: int, goals: Mapping[str, int], carriers: Mapping[str, Carrier]) -> dict[str, int]:
    """As far towards the goals as can be in this plan; what is missing is carried by whoever can, the chosen first."""
    now = {name: carrier.now or carrier.range for name, carrier in carriers.items()}
    powers = {name: _within(now[name], goal_w) for name, goal_w in goals.items()}
    for chosen in (True, False):
        left_w = total_w - sum(powers.values())
        group = [name for name, goal_w in goals.items() if bool(goal_w) is chosen]
        if left_w * total_w <= 0 or not group:
            continue
        begun_w = sum(powers[name] for name in group)
        powers |= fill(left_w + begun_w, {name: _beyond(now[name], powers[name], total_w) for name in group})
    over_all = fill(total_w, now)
    return powers if _off(total_w, powers) <= _off(total_w, over_all) else over_all


def _within(room: Range, power_w: int) -> int:
    nearest_w = min(max(power_w, room.low), room.high)
    return 0 if 0 < nearest_w < room.minimum else nearest_w


def _beyond(room: Range, power_w: int, total_w: int) -> Range:
    """From where it is, along the direction of the total."""
    return Range(power_w, room.high, room.minimum) if total_w > 0 else Range(room.low, power_w)
