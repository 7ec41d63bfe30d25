"""How many micro-batches a batch is cut into, and how long each may take.

Micro-batches are packed one after the other (`group_packing`), each within a target; the targets are
what is searched. The first micro-batch gets the longest sequences and the most time: its target is
tried where the longest sequences just end in groups of each degree, and in steps between. The others
share one target, found by bisection; with three or more they are then searched in the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.training.group_kinds import GroupKind
from planner.training.group_packing import Draft, Pool, pack
from planner.training.room import Floor, Room
from planner.training.sequence_costs import TrainingFleet

BISECTION_PRECISION = 1e-3
"""Of a target, as a share; what is left is for the exchange afterwards."""
NUM_STEPS = 16
"""Targets of a first micro-batch between the least and the most that is worth trying."""
NUM_REFINEMENTS = 4
"""Halvings of the step around the best target."""
MOST_EFFORT = 1_500_000
"""Work of `pack`, in units of about half a microsecond; beyond it targets are no longer searched."""
NUM_LONGEST = 3
"""Longest lengths whose times in each kind of group are tried as targets."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A whole batch in groups: micro-batches, and the sum of their times."""

    micro_batches: tuple[tuple[Draft, ...], ...]
    seconds: float

    @classmethod
    def of(cls, micro_batches: Sequence[Sequence[Draft]]) -> "Packed":
        """Sum the times of the micro-batches' slowest groups."""
        parts = tuple(tuple(drafts) for drafts in micro_batches)
        return cls(parts, sum(max(draft.seconds() for draft in drafts) for drafts in parts))


class Search:
    """Packs batches on one fleet."""

    def __init__(self, fleet: TrainingFleet, kinds: Sequence[GroupKind]) -> None:
        """Take the kinds of groups it may use."""
        self.kinds = kinds
        self.floor = Floor(fleet.cluster)
        self.fixed_seconds = fleet.costs.micro_batch_seconds
        self._strength = sum(device.relative_speed for device in fleet.cluster.devices)
        self._effort = 0
        self._least_work: dict[int, float] = {}

    def best(self, pool: Pool, num_micro_batches: int, upper_seconds: float) -> Packed | None:
        """Return the fastest found with at most so many micro-batches, if faster than `upper`."""
        best = self._level(pool, num_micro_batches, upper_seconds)
        if num_micro_batches == 1 or (best is None and math.isinf(upper_seconds)):
            return best
        upper = upper_seconds if best is None else best.seconds
        rest_least = (num_micro_batches - 1) * self.fixed_seconds
        least = self.fixed_seconds + self.work(pool) / self._strength / num_micro_batches
        step = (upper - rest_least - least) / NUM_STEPS
        targets = self._breakpoints(pool)
        targets += [least + step * number for number in range(NUM_STEPS)]
        chosen = 0.0
        for target in sorted(set(targets)):
            found = self._with_first(pool, num_micro_batches, target, upper)
            if found is not None:
                best, upper, chosen = found, found.seconds, target
        for _ in range(NUM_REFINEMENTS if chosen else 0):
            step /= 2
            for target in (chosen - step, chosen + step):
                found = self._with_first(pool, num_micro_batches, target, upper)
                if found is not None:
                    best, upper, chosen = found, found.seconds, target
                    break
        if best is not None and num_micro_batches > 2 and self._effort <= MOST_EFFORT:
            best = self._with_rest(pool, num_micro_batches, best)
        return best

    def work(self, pool: Pool) -> float:
        """Return the least device-seconds that what is left of a pool can use."""
        both = zip(pool.lengths, pool.counts, strict=True)
        return sum(count * self._least(length) for length, count in both if count)

    def _least(self, length: int) -> float:
        known = self._least_work.get(length)
        if known is None:
            known = self._least_work[length] = min(
                kind.weight * (kind.cost.seconds([length]) - kind.cost.fixed_seconds)
                for kind in self.kinds
                if kind.cost.capacity_tokens >= length
            )
        return known

    def _unhurried_seconds(self, pool: Pool) -> float:
        """Return a time in which any group ends whatever of the pool is in it."""
        square = max(kind.cost.seconds_per_token_squared for kind in self.kinds)
        linear = max(kind.cost.seconds_per_token for kind in self.kinds)
        both = zip(pool.lengths, pool.counts, strict=True)
        each = (count * length * (length * square + linear) for length, count in both)
        return self.fixed_seconds + 2 * sum(each)  # twice: no rounding may make it late

    def _breakpoints(self, pool: Pool) -> list[float]:
        place, times = pool.longest(), set()
        for _ in range(NUM_LONGEST):
            if place < 0:
                break
            length = pool.lengths[place]
            for kind in self.kinds:
                if kind.cost.capacity_tokens >= length:
                    times.add(kind.cost.seconds([length]) * (1 + 1e-9))
            place = pool.longest(place - 1)
        return list(times)

    def _with_first(
        self, pool: Pool, num_micro_batches: int, target: float, upper: float
    ) -> Packed | None:
        """Pack a first micro-batch within a target and the others level."""
        is_late = target + (num_micro_batches - 1) * self.fixed_seconds >= upper
        if is_late or self._effort > MOST_EFFORT:
            return None
        rest = pool.copy()
        drafts = self._pack(rest, target)
        if not drafts:
            return None
        seconds = max(draft.seconds() for draft in drafts)
        if rest.longest() < 0:
            return Packed((drafts,), seconds) if seconds < upper else None
        others = self._level(rest, num_micro_batches - 1, upper - seconds)
        if others is None:
            return None
        return Packed((drafts, *others.micro_batches), seconds + others.seconds)

    def _with_rest(self, pool: Pool, num_micro_batches: int, found: Packed) -> Packed:
        """Search the targets of all but the first micro-batch again."""
        first, *others = found.micro_batches
        rest = Pool([length for drafts in others for draft in drafts for length in draft.lengths])
        seconds = max(draft.seconds() for draft in first)
        if rest.longest() < 0:
            return found
        better = self.best(rest, num_micro_batches - 1, found.seconds - seconds)
        if better is None:
            return found
        return Packed((first, *better.micro_batches), seconds + better.seconds)

    def _level(self, pool: Pool, num_micro_batches: int, upper_seconds: float) -> Packed | None:
        """Bisect the one target within which so many micro-batches take the whole pool."""
        work = self.work(pool) / self._strength
        low = self.fixed_seconds + work / num_micro_batches
        if low * num_micro_batches >= upper_seconds:
            return None
        high = min(upper_seconds / num_micro_batches, self._unhurried_seconds(pool))
        best = self._within(pool, num_micro_batches, high)
        if best is None:
            return None
        while high - low > BISECTION_PRECISION * low:
            middle = (low + high) / 2
            found = self._within(pool, num_micro_batches, middle)
            if found is None:
                low = middle
            else:
                high = min(middle, found.seconds / len(found.micro_batches))
                best = min(best, found, key=lambda packed: packed.seconds)
        return best if best.seconds < upper_seconds else None

    def _within(self, pool: Pool, num_micro_batches: int, target: float) -> Packed | None:
        rest = pool.copy()
        packed: list[tuple[Draft, ...]] = []
        seconds = 0.0
        while rest.longest() >= 0:
            drafts = self._pack(rest, target)
            if not drafts or len(packed) == num_micro_batches:
                return None
            packed.append(drafts)
            seconds += max(draft.seconds() for draft in drafts)
        return Packed(tuple(packed), seconds)

    def _pack(self, pool: Pool, target: float) -> tuple[Draft, ...]:
        drafts = pack(pool, self.kinds, Room(self.floor), target)
        self._effort += 20 + len(self.floor.node_end) + (3 + len(self.kinds)) * len(drafts)
        return tuple(drafts)
