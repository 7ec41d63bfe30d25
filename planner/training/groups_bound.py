"""A lower bound on the time of a batch that needs no solver.

Sum a micro-batch's times over its devices, each counted by its speed: with `S` the sum of speeds,
`c` the fixed time and `w(s, k)` the speed-weighted time of sequence `s` in a group of kind `k`

    S (M - c)  >=  sum over its sequences of  min over the kinds that hold s within M of  w(s, k)

(FlexSP's constraints summed, reference in `sequence_costs`). Over `m` micro-batches of at most `M_1`
each the batch takes at least `m c + (sum of all)/S`. `M_1` in turn is at most the whole less what
the other micro-batches need, which rules out slow kinds for long sequences; and so on until nothing
changes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.training.group_kinds import GroupKind, families_of, has_all_kinds
from planner.training.sequence_costs import GroupCost, TrainingFleet

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IdealKind:
    """What no group of some devices is better than.

    Attributes:
        cost: At most what such a group takes and at least what it holds.
        least_weight: At most the sum of its members' speeds.
    """

    cost: GroupCost
    least_weight: float


def ideal_kinds(fleet: TrainingFleet, kinds: Sequence[GroupKind]) -> tuple[IdealKind, ...]:
    """Return kinds of which one is at least as good as any group of the fleet."""
    families = families_of(fleet.cluster)
    islands = fleet.cluster.islands
    if not has_all_kinds(fleet.cluster):
        return tuple(_best_of_everything(fleet, degree) for degree in fleet.degrees)
    speeds = [islands[members[0]].relative_speed for members in families]
    return tuple(
        IdealKind(kind.cost, kind.cost.degree * min(speeds[number] for number in kind.families))
        for kind in kinds
    )


def _best_of_everything(fleet: TrainingFleet, degree: int) -> IdealKind:
    islands, costs = fleet.cluster.islands, fleet.costs
    speeds = [island.relative_speed for island in islands]
    exchange = 0.0
    if degree > 1:
        rate = min(costs.tabled_rate(degree), _best_link(fleet, degree))
        exchange = costs.exchanged_bytes_per_token(degree) / (degree * rate)
    arithmetic = degree * max(speeds)
    cost = GroupCost(
        degree=degree,
        capacity_tokens=degree * max(fleet.device_capacities),
        seconds_per_token_squared=costs.attention_seconds_per_token_squared / arithmetic,
        seconds_per_token=costs.linear_seconds_per_token / arithmetic + exchange,
        fixed_seconds=costs.micro_batch_seconds,
    )
    return IdealKind(cost, degree * min(speeds))


def _best_link(fleet: TrainingFleet, degree: int) -> float:
    """Return the best link of so many devices: a smaller reach has the faster one."""
    islands = fleet.cluster.islands
    links = [min(i.node_bytes_per_second, i.nic_bytes_per_second) for i in islands]
    enough = [link for link, i in zip(links, islands, strict=True) if i.num_devices >= degree]
    enough += [i.node_bytes_per_second for i in islands if i.devices_per_node >= degree]
    across = min(max(links), fleet.cluster.between_islands_bytes_per_second or max(links))
    return max(enough, default=across)


class BatchBound:
    """What any plan of one batch takes at least."""

    def __init__(
        self, lengths: Sequence[int], fleet: TrainingFleet, kinds: Sequence[GroupKind]
    ) -> None:
        """Tabulate each length in each kind."""
        counts = sorted(Counter(lengths).items())
        self.lengths = np.array([length for length, _ in counts], dtype=float)
        self.counts = np.array([count for _, count in counts], dtype=float)
        self.fixed_seconds = fleet.costs.micro_batch_seconds
        self.strength = sum(device.relative_speed for device in fleet.cluster.devices)
        ideal = ideal_kinds(fleet, kinds)
        square = np.array([kind.cost.seconds_per_token_squared for kind in ideal])
        linear = np.array([kind.cost.seconds_per_token for kind in ideal])
        capacity = np.array([kind.cost.capacity_tokens for kind in ideal])
        weight = np.array([kind.least_weight for kind in ideal])
        each = self.lengths[:, None] * (self.lengths[:, None] * square + linear)
        self._seconds = np.where(self.lengths[:, None] <= capacity, each, np.inf)
        self._work = self._seconds * weight
        self.capacity_tokens = sum(fleet.device_capacities)
        self.least_micro_batches = math.ceil(sum(lengths) / self.capacity_tokens)

    def least_work(self, target_seconds: float) -> Floats:
        """Return each length's least work within a micro-batch's time, in device-seconds."""
        in_time = self._seconds <= (target_seconds - self.fixed_seconds) * (1 + 1e-9)
        work: Floats = np.where(in_time, self._work, np.inf).min(axis=1)
        return work

    @property
    def longest_seconds(self) -> float:
        """Time of the sequence that takes most, alone in the best group for it."""
        return self.fixed_seconds + float(self._seconds.min(axis=1).max())

    @cached_property
    def others_seconds(self) -> float:
        """What all micro-batches but the slowest take at least: they hold what one cannot."""
        fixed = (self.least_micro_batches - 1) * self.fixed_seconds
        tokens = max(0.0, float(self.counts @ self.lengths) - self.capacity_tokens)
        work = self.least_work(math.inf)
        order = np.argsort(work / self.lengths)
        sizes = (self.counts * self.lengths)[order]
        taken = np.clip(tokens - (np.cumsum(sizes) - sizes), 0.0, sizes)
        return fixed + float(taken @ (work / self.lengths)[order]) / self.strength

    def seconds(self) -> float:
        """Return what the batch takes at least; one more micro-batch adds its fixed time."""
        fixed = self.least_micro_batches * self.fixed_seconds
        work = self.least_work(math.inf)
        seconds = fixed + float(self.counts @ work) / self.strength
        seconds = max(seconds, self.longest_seconds + self.others_seconds)
        # Between two of these times the least work is one and the same, and it falls at each.
        times = np.unique(self._seconds[np.isfinite(self._seconds)])
        times += self.fixed_seconds + self.others_seconds
        times = times[times > seconds]
        first, end = 0, len(times)
        while first < end:
            middle = (first + end) // 2
            if self._needed_seconds(times[middle]) <= times[middle]:
                end = middle
            else:
                first = middle + 1
        before = seconds if first == 0 else float(times[first - 1])
        after = float(times[first]) if first < len(times) else math.inf
        needed = self._needed_seconds(before)
        return max(seconds, min(needed, after)) if min(needed, after) < math.inf else seconds

    def _needed_seconds(self, total_seconds: float) -> float:
        """Return what the work takes at least where the whole batch takes so long at most."""
        work = self.least_work(total_seconds - self.others_seconds)
        fixed = self.least_micro_batches * self.fixed_seconds
        return fixed + float(self.counts @ work) / self.strength

    def most_micro_batches(self, upper_seconds: float, num_sequences: int) -> int:
        """Return the most micro-batches with which a plan may be faster than one that is known."""
        spare = max(0.0, upper_seconds - self.seconds())
        if spare >= self.fixed_seconds * (num_sequences - self.least_micro_batches):
            return num_sequences
        return self.least_micro_batches + int(spare / self.fixed_seconds)
