"""A small batch as one program: every sequence in a group of any kind, all micro-batches together.

Sets
    S  sequences, the longest first;  J  micro-batches;  V  nodes
    P  slots: a kind of group and a number among those of its kind

Constants
    length[s];  extra[s,p]  seconds that s adds to slot p's group;  c  seconds of every group
    capacity[p]  tokens;  degree[p]  devices;  size[v]  devices;  speed  sum over all devices
    weight[p]  at most the sum of the speeds of p's devices

Variables
    inside[j,p,s], opened[j,p], used[j] in {0, 1};  taken[j,p,v] in {0, ..., size[v]}
    latest[j] >= 0  when micro-batch j ends, in seconds

Objective
    minimise  sum_j latest[j]

Constraints
    (1) everything is trained:       sum_{j,p} inside[j,p,s] = 1                              s in S
    (2) it fits:                     sum_s length[s] inside[j,p,s] <= capacity[p] opened[j,p]
    (3) it ends in time:             sum_s extra[s,p] inside[j,p,s] + c opened[j,p] <= latest[j]
    (4) a group has its devices:     sum_v taken[j,p,v] = degree[p] opened[j,p], over the nodes of
                                     one node, of one island, or of its families, as its kind says
    (5) every device once:           sum_p taken[j,p,v] <= size[v]
    (6) work fits (implied):         sum_{p,s} weight[p] extra[s,p] inside[j,p,s]
                                         <= speed (latest[j] - c used[j]),   opened[j,p] <= used[j]
    (7) symmetry: the slowest micro-batch first; of slots alike the next opens after the one before,
        and every sequence of it after a longer one there
    (8) bounds:                      lower <= sum_j latest[j] <= upper
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import pulp

from planner.solvers import SolverChain
from planner.training.group_kinds import GroupKind, families_of
from planner.training.group_packing import Draft
from planner.training.group_search import Packed
from planner.training.room import Piece
from planner.training.sequence_costs import TrainingFleet

MOST_CHOICES = 4_000
"""Variables `inside` up to which the program is built."""
OBJECTIVE_UNITS = 1e3
"""What the heuristic's time counts in the program, as solvers stop at 1e-6 of an objective's unit."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a program came to: the best plan known then, and a time that no plan beats."""

    best: Packed
    bound_seconds: float


@dataclass(frozen=True)
class SmallBatch:
    """The program's sets and constants."""

    lengths: tuple[int, ...]
    """Longest first."""
    fleet: TrainingFleet
    kinds: tuple[GroupKind, ...]
    num_micro_batches: int
    """More cannot help."""
    lower_seconds: float
    known: Packed

    @cached_property
    def nodes(self) -> tuple[tuple[int, int], ...]:
        """Island and devices of each node."""
        islands = enumerate(self.fleet.cluster.islands)
        return tuple(
            (number, island.devices_per_node)
            for number, island in islands
            for _ in range(island.num_nodes)
        )

    @cached_property
    def families(self) -> tuple[tuple[int, ...], ...]:
        """Islands alike."""
        return families_of(self.fleet.cluster)

    @cached_property
    def slots(self) -> tuple[tuple[int, int], ...]:
        """Kind, and number among those of the kind."""
        found = []
        for number, kind in enumerate(self.kinds):
            islands = {i for family in kind.families for i in self.families[family]}
            sizes = [size for island, size in self.nodes if island in islands]
            degree = kind.cost.degree
            most = sum(n // degree for n in sizes) if kind.reach == "node" else sum(sizes) // degree
            found += [(number, i) for i in range(min(most, len(self.lengths)))]
        return tuple(found)

    @property
    def num_choices(self) -> int:
        """Variables `inside`."""
        return len(self.lengths) * len(self.slots) * self.num_micro_batches

    @property
    def unit_seconds(self) -> float:
        """What 1 of the program's times stands for."""
        return self.known.seconds / OBJECTIVE_UNITS


def solve_exactly(batch: SmallBatch, solver: SolverChain, *, time_limit_seconds: float) -> Proof:
    """Return the fastest groups there are, or what is known when the time is over.

    Raises:
        SolverError: If no solver works.
    """
    program = _Program(batch)
    answer = solver.minimise(program.lp, time_limit_seconds=time_limit_seconds)
    bound = min(max(batch.lower_seconds, answer.bound * batch.unit_seconds), batch.known.seconds)
    if answer.verdict != "solved":  # infeasible: rounding hides the plan that is known
        return Proof(batch.known, bound)
    found = Packed.of(program.micro_batches())
    return Proof(min(batch.known, found, key=lambda packed: packed.seconds), bound)


class _Program:
    """The rows; numbers in brackets are those of the module's docstring."""

    def __init__(self, batch: SmallBatch) -> None:
        self._batch = batch
        self.lp = pulp.LpProblem("batch", pulp.LpMinimize)
        self._parts = range(batch.num_micro_batches)
        self._unit = batch.unit_seconds
        self._fixed = batch.fleet.costs.micro_batch_seconds / self._unit
        self._latest = [self.lp.add_variable(f"latest_{j}", 0) for j in self._parts]
        self._used = [self._binary(f"used_{j}") for j in self._parts]
        self._opened: dict[tuple[int, int], pulp.LpVariable] = {}
        self._inside: dict[tuple[int, int, int], pulp.LpVariable] = {}
        self._taken: dict[tuple[int, int, int], pulp.LpVariable] = {}
        self.lp += pulp.lpSum(self._latest)
        for j in self._parts:
            for p, (number, _) in enumerate(batch.slots):
                self._add_slot(j, p, batch.kinds[number])
            self._add_devices(j)
            self._add_work(j)
        self._add_sequences()
        self._add_order()
        total = pulp.lpSum(self._latest)
        self.lp += total >= batch.lower_seconds / self._unit  # (8)
        self.lp += total <= OBJECTIVE_UNITS

    def micro_batches(self) -> tuple[tuple[Draft, ...], ...]:
        """Return the groups that the solver left on the variables."""
        found = []
        for j in self._parts:
            start, drafts = self._first_ranks(), []
            for p, (number, _) in enumerate(self._batch.slots):
                chosen = [
                    length
                    for s, length in enumerate(self._batch.lengths)
                    if (j, p, s) in self._inside and self._inside[j, p, s].varValue > 0.5
                ]
                if chosen:
                    squares = sum(length * length for length in chosen)
                    pieces = self._pieces(j, p, start)
                    kind = self._batch.kinds[number]
                    drafts.append(Draft(kind, pieces, chosen, sum(chosen), squares))
            found.append(tuple(drafts))
        return tuple(drafts for drafts in found if drafts)

    def _binary(self, name: str) -> pulp.LpVariable:
        return self.lp.add_variable(name, 0, 1, pulp.LpInteger)

    def _extra(self, s: int, kind: GroupKind) -> float:
        length = self._batch.lengths[s]
        return (kind.cost.seconds([length]) - kind.cost.fixed_seconds) / self._unit

    def _add_slot(self, j: int, p: int, kind: GroupKind) -> None:
        opened = self._opened[j, p] = self._binary(f"opened_{j}_{p}")
        fitting = [s for s, n in enumerate(self._batch.lengths) if n <= kind.cost.capacity_tokens]
        inside = {s: self._binary(f"inside_{j}_{p}_{s}") for s in fitting}
        self._inside.update({(j, p, s): variable for s, variable in inside.items()})
        tokens = pulp.lpSum(self._batch.lengths[s] * inside[s] for s in fitting)
        self.lp += tokens <= kind.cost.capacity_tokens * opened  # (2)
        seconds = pulp.lpSum(self._extra(s, kind) * inside[s] for s in fitting)
        self.lp += seconds + self._fixed * opened <= self._latest[j]  # (3)
        self.lp += opened <= self._used[j]
        for s in fitting:
            self.lp += inside[s] <= opened
        self._add_taken(j, p, kind)

    def _add_taken(self, j: int, p: int, kind: GroupKind) -> None:  # (4)
        batch, degree = self._batch, kind.cost.degree
        islands = {i for family in kind.families for i in batch.families[family]}
        places: dict[int, list[int]] = defaultdict(list)
        for v, (island, _) in enumerate(batch.nodes):
            if island in islands:
                places[v if kind.reach == "node" else island if kind.reach == "island" else 0] += [
                    v
                ]
        whole = []
        for place, nodes in places.items():
            here = self._binary(f"here_{j}_{p}_{place}") if len(places) > 1 else self._opened[j, p]
            whole.append(here)
            for v in nodes:
                most = min(degree, batch.nodes[v][1])
                taken = self.lp.add_variable(f"taken_{j}_{p}_{v}", 0, most, pulp.LpInteger)
                self._taken[j, p, v] = taken
            self.lp += pulp.lpSum(self._taken[j, p, v] for v in nodes) == degree * here
        if len(places) > 1:
            self.lp += pulp.lpSum(whole) == self._opened[j, p]

    def _add_devices(self, j: int) -> None:  # (5)
        for v, (_, size) in enumerate(self._batch.nodes):
            everyone = (self._taken.get((j, p, v)) for p in range(len(self._batch.slots)))
            self.lp += pulp.lpSum(taken for taken in everyone if taken is not None) <= size

    def _add_work(self, j: int) -> None:  # (6)
        batch = self._batch
        islands = batch.fleet.cluster.islands
        speed = sum(island.relative_speed * island.num_devices for island in islands)
        slowest = [islands[members[0]].relative_speed for members in batch.families]
        work = []
        for (part, p, s), inside in self._inside.items():
            if part == j:
                kind = batch.kinds[batch.slots[p][0]]
                weight = kind.cost.degree * min(slowest[family] for family in kind.families)
                work.append(weight * self._extra(s, kind) * inside)
        self.lp += pulp.lpSum(work) <= speed * (self._latest[j] - self._fixed * self._used[j])

    def _add_sequences(self) -> None:  # (1)
        by_sequence = defaultdict(list)
        for (_, _, s), inside in self._inside.items():
            by_sequence[s].append(inside)
        for choices in by_sequence.values():
            self.lp += pulp.lpSum(choices) == 1

    def _add_order(self) -> None:  # (7)
        for j in self._parts[1:]:
            self.lp += self._latest[j] <= self._latest[j - 1]
        for j in self._parts:
            for p, (_, number) in enumerate(self._batch.slots):
                if number:
                    self.lp += self._opened[j, p] <= self._opened[j, p - 1]
                    for s in range(len(self._batch.lengths)):
                        if (j, p, s) in self._inside:
                            before = [self._inside.get((j, p - 1, t)) for t in range(s)]
                            longer = pulp.lpSum(x for x in before if x is not None)
                            self.lp += self._inside[j, p, s] <= longer

    def _first_ranks(self) -> list[int]:
        ranks, end = [], 0
        for _, size in self._batch.nodes:
            ranks.append(end)
            end += size
        return ranks

    def _pieces(self, j: int, p: int, start: list[int]) -> tuple[Piece, ...]:
        """Take the slot's devices from the nodes, whose first free ranks move on."""
        pieces = []
        for v in range(len(self._batch.nodes)):
            taken = self._taken.get((j, p, v))
            count = 0 if taken is None else round(taken.varValue)
            if count:
                pieces.append((start[v], count))
                start[v] += count
        return tuple(pieces)
