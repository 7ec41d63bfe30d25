"""What the micro-batch of the longest sequence should take off the others, groups counted by kind.

Sets
    B  sequences of one length, or of neighbouring lengths, which then count as the shortest
    K  kinds of groups;  F  families of islands

Constants
    M, M'  seconds that the micro-batch and any other may take;  c  of them fixed
    size[b]  sequences
    length[b];  extra[b,k]  seconds that one adds to a group of kind k
    work[b]  least speed-weighted device-seconds of one in any micro-batch of at most M'
    capacity[k]  tokens;  degree[k];  devices[f];  most[k]  groups that the nodes have room for
    all  tokens that all devices hold;  speed  sum over all devices

Variables
    groups[k] in {0, 1, ..., most[k]};  inside[b,k], rest[b] >= 0  sequences
    taken[k,f] >= 0  devices;  others in {0, 1, ...}  other micro-batches

Objective
    minimise  sum_b work[b] rest[b] + speed c others             what is left to the others

Constraints
    (1) all are somewhere:         sum_k inside[b,k] + rest[b] = size[b]
    (2) memory, added up:          sum_b length[b] inside[b,k] <= capacity[k] groups[k]
    (3) time, added up:            sum_b extra[b,k] inside[b,k] <= (M - c) groups[k]
    (4) memory and time, each:     of sequences longer than a part 1/(q+1) of what a group of kind k
                                   holds, or ends in time, it takes q;  q = 1, 2
    (5) devices:                   sum_f taken[k,f] = degree[k] groups[k],  sum_k taken[k,f] <= devices[f]
    (6) memory of the others:      sum_b length[b] rest[b] <= all others
    (7) time of the others:        rest[b] = 0 where no kind holds one within M'
    (8) the longest is here:       rest[b] <= size[b] - 1 of its bucket

inside[b,k] exists where one fits and ends in time. Groups of a kind are counted, not told apart, and
their limits are added up: the program relaxes every plan where that micro-batch takes at most M and any
other at most M', so what it leaves at least is a bound on all of them.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pulp

from planner.solvers import SolverChain
from planner.training.group_kinds import GroupKind, families_of
from planner.training.groups_bound import BatchBound
from planner.training.sequence_costs import TrainingFleet

MOST_BUCKETS = 128
"""Lengths told apart; with more, neighbours count as their shortest."""
GAP_FRACTION = 1e-3
"""Of the work left, at which the solver may stop."""

WHOLE = 1e-6
"""A value this close to a whole number is one."""


@dataclass(frozen=True, slots=True)
class First:
    """One micro-batch as the program would have it.

    Attributes:
        left_work: At least what is left to the others, in device-seconds, their fixed times
            on all devices included; infinite where there is no such plan.
        num_groups: By kind.
        shares: Sequences by bucket and kind, not always whole.
    """

    left_work: float
    num_groups: tuple[int, ...]
    shares: dict[tuple[int, int], float]


class FirstProgram:
    """The sets and constants that do not depend on the time."""

    def __init__(self, fleet: TrainingFleet, kinds: Sequence[GroupKind], bound: BatchBound) -> None:
        """Put the lengths into buckets."""
        self.kinds = kinds
        self.bound = bound
        self._fixed = fleet.costs.micro_batch_seconds
        number = len(bound.lengths)
        self.buckets = np.arange(number) * min(number, MOST_BUCKETS) // number
        """Bucket of each different length, ascending."""
        starts = np.searchsorted(self.buckets, np.arange(self.buckets[-1] + 1))
        self._starts = starts
        self._lengths = bound.lengths[starts]
        self._sizes = np.add.reduceat(bound.counts, starts)
        costs = [kind.cost for kind in kinds]
        square = np.array([cost.seconds_per_token_squared for cost in costs])
        linear = np.array([cost.seconds_per_token for cost in costs])
        self._extra = self._lengths[:, None] * (self._lengths[:, None] * square + linear)
        islands = fleet.cluster.islands
        families = families_of(fleet.cluster)
        self._devices = [sum(islands[i].num_devices for i in members) for members in families]
        self._most = [
            sum(
                islands[i].num_nodes * (islands[i].devices_per_node // kind.cost.degree)
                if kind.reach == "node"
                else islands[i].num_devices // kind.cost.degree
                for family in kind.families
                for i in families[family]
            )
            if kind.reach != "islands"
            else sum(self._devices[family] for family in kind.families) // kind.cost.degree
            for kind in kinds
        ]

    def solve(
        self,
        target_seconds: float,
        solver: SolverChain,
        *,
        others_seconds: float,
        time_limit_seconds: float,
    ) -> First | None:
        """Return the best micro-batch within a time; None where the solver found none so soon.

        Args:
            target_seconds: What it may take (M).
            solver: Who solves it.
            others_seconds: What any other micro-batch may take (M').
            time_limit_seconds: For the solver.

        Raises:
            SolverError: If no solver works.
        """
        work = np.minimum.reduceat(self.bound.least_work(others_seconds), self._starts)
        most_left = np.where(np.isinf(work), 0.0, self._sizes)  # (7)
        most_left[-1] = min(most_left[-1], self._sizes[-1] - 1)  # (8)
        work = np.where(np.isinf(work), 0.0, work)
        each = self.bound.strength * self._fixed
        unit = (float(self._sizes @ work) + each) / 1e3 or 1.0  # solvers stop at 1e-6 of it
        lp = pulp.LpProblem("first", pulp.LpMinimize)
        groups = [
            lp.add_variable(f"groups_{k}", 0, most, pulp.LpInteger)
            for k, most in enumerate(self._most)
        ]
        inside: dict[tuple[int, int], pulp.LpVariable] = {}
        for k, kind in enumerate(self.kinds):
            self._add_kind(lp, k, kind, target_seconds - self._fixed, groups[k], inside)
        rest = [lp.add_variable(f"rest_{b}", 0, most) for b, most in enumerate(most_left)]
        for b, size in enumerate(self._sizes):  # (1)
            here = [inside[b, k] for k in range(len(groups)) if (b, k) in inside]
            lp += pulp.lpSum([*here, rest[b]]) == size
        self._add_devices(lp, groups)
        others = lp.add_variable("others", 0, int(self._sizes.sum()), pulp.LpInteger)
        tokens = self._lengths / self.bound.capacity_tokens
        lp += pulp.lpSum(tokens[b] * variable for b, variable in enumerate(rest)) <= others  # (6)
        left = [work[b] / unit * variable for b, variable in enumerate(rest)]
        lp += pulp.lpSum([*left, each / unit * others])
        answer = solver.minimise(
            lp, time_limit_seconds=time_limit_seconds, gap_fraction=GAP_FRACTION
        )
        if answer.verdict == "infeasible":
            return First(math.inf, (), {})
        if answer.verdict != "solved":
            return None
        shares = {key: variable.varValue or 0.0 for key, variable in inside.items()}
        counts = tuple(round(variable.varValue or 0.0) for variable in groups)
        return First(max(0.0, answer.bound * unit), counts, shares)

    def whole_shares(self, first: First) -> list[list[int]]:
        """Return the lengths that each kind is given, whole sequences of each bucket."""
        given: list[list[int]] = [[] for _ in self.kinds]
        for b in range(len(self._starts)):
            here = [(first.shares.get((b, k), 0.0), k) for k in range(len(self.kinds))]
            counts = {k: int(share + WHOLE) for share, k in here}
            spare = round(sum(share for share, _ in here)) - sum(counts.values())
            for _, k in sorted(here, key=lambda pair: int(pair[0] + WHOLE) - pair[0])[:spare]:
                counts[k] += 1
            members = np.flatnonzero(self.buckets == b)
            lengths = iter(
                np.repeat(self.bound.lengths[members], self.bound.counts[members].astype(int))[::-1]
            )
            for k in reversed(range(len(self.kinds))):
                given[k] += [int(length) for length in itertools.islice(lengths, counts[k])]
        return given

    def _add_kind(
        self,
        lp: pulp.LpProblem,
        k: int,
        kind: GroupKind,
        seconds: float,
        groups: pulp.LpVariable,
        inside: dict[tuple[int, int], pulp.LpVariable],
    ) -> None:
        capacity = kind.cost.capacity_tokens
        extra = self._extra[:, k]
        fitting = np.flatnonzero((self._lengths <= capacity) & (extra <= seconds * (1 + 1e-9)))
        chosen = {int(b): lp.add_variable(f"inside_{b}_{k}", 0, self._sizes[b]) for b in fitting}
        inside.update({(b, k): variable for b, variable in chosen.items()})
        if not chosen:
            return
        # Shares of what one group holds, so that no row is in millions.
        lp += (
            pulp.lpSum(self._lengths[b] / capacity * x for b, x in chosen.items()) <= groups
        )  # (2)
        lp += pulp.lpSum(extra[b] / seconds * x for b, x in chosen.items()) <= groups  # (3)
        for q in (1, 2):  # (4)
            long = self._lengths * (q + 1) > capacity
            slow = extra * (q + 1) > seconds * (1 + 1e-9)
            for members in (long, slow):
                large = [x for b, x in chosen.items() if members[b]]
                if large:
                    lp += pulp.lpSum(large) <= q * groups

    def _add_devices(self, lp: pulp.LpProblem, groups: Sequence[pulp.LpVariable]) -> None:  # (5)
        used: list[list[pulp.LpAffineExpression]] = [[] for _ in self._devices]
        for k, kind in enumerate(self.kinds):
            if len(kind.families) == 1:
                used[kind.families[0]].append(kind.cost.degree * groups[k])
                continue
            taken = {f: lp.add_variable(f"taken_{k}_{f}", 0) for f in kind.families}
            lp += pulp.lpSum(taken.values()) == kind.cost.degree * groups[k]
            for family, devices in taken.items():
                used[family].append(devices)
        for parts, devices in zip(used, self._devices, strict=True):
            lp += pulp.lpSum(parts) <= devices
