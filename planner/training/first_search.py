"""Improves on a plan of a large batch and raises its bound, by when its longest sequence is done.

Let the micro-batch of the longest sequence take `M`, `left(M)` be the least work that `first_program`
leaves to the others, and `S` the sum of the devices' speeds. The batch then takes at least

    M + left(M) / S

and `left` falls with `M`: over an interval the least is its lower end's `M` and its upper end's
`left`. The interval with the lowest such bound is halved, again and again; the first ones are cut
where the longest sequence begins to fit another kind of group, since `left` jumps there. Each program
also says how many groups of which kind to open and what to put in them; packed, with the rest
searched as by the heuristic, that is a plan.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.solvers import SolverChain
from planner.training.exact_program import Proof
from planner.training.first_program import First, FirstProgram
from planner.training.group_exchange import exchanged
from planner.training.group_kinds import GroupKind
from planner.training.group_packing import Draft, Pool, fill, pack
from planner.training.group_search import Packed, Search
from planner.training.groups_bound import BatchBound
from planner.training.room import Floor, Room
from planner.training.sequence_costs import TrainingFleet

NARROW_FRACTION = 1e-5
"""Of the whole time: an interval that is no longer halved."""
CLOSE_FRACTION = 1e-4
"""Gap at which an interval is no longer of interest."""
MOST_PROGRAM_SECONDS = 0.8
"""Of one program: its bound then is of more use than its last thousandths."""
JUST_BEFORE = 1e-7
"""Share of a time by which an interval ends before it."""
RESERVED_SECONDS = 0.3
"""Time left for a program's rows and for what is made of its answer."""


@dataclass(frozen=True, slots=True, order=True)
class _Interval:
    """Times of the longest sequence's micro-batch, and what no plan with such a one beats."""

    bound_seconds: float
    low: float
    high: float
    left_work: float
    """At least, at `high`."""


class FirstSearch:
    """The intervals of one batch."""

    def __init__(
        self,
        lengths: Sequence[int],
        fleet: TrainingFleet,
        kinds: Sequence[GroupKind],
        bound: BatchBound,
        known: Packed,
    ) -> None:
        """Begin with the plan that is known."""
        self._lengths = lengths
        self._fleet = fleet
        self._kinds = kinds
        self._bound = bound
        self._floor = Floor(fleet.cluster)
        self._program = FirstProgram(fleet, kinds, bound)
        self.best = known

    def run(
        self, solver: SolverChain, *, time_limit_seconds: float, clock: Callable[[], float]
    ) -> Proof:
        """Return the best plan found and the bound, when the gap is closed or the time is over.

        Raises:
            SolverError: If no solver works.
        """
        end = clock() + time_limit_seconds - RESERVED_SECONDS
        # Not evaluated yet: nothing is known to be left to the others.
        waiting = [_Interval(self._bound.seconds(), *ends, -1.0) for ends in self._ends()]
        heapq.heapify(waiting)
        narrow = NARROW_FRACTION * self.best.seconds
        while self._is_open(waiting) and end > clock():
            interval = waiting[0]
            if interval.left_work >= 0 and interval.high - interval.low < narrow:
                break
            heapq.heappop(waiting)
            for part in self._refined(interval, solver, end - clock()):
                heapq.heappush(waiting, part)
        lowest = waiting[0].bound_seconds if waiting else math.inf
        return Proof(self.best, min(lowest, self.best.seconds))

    def _is_open(self, intervals: Sequence[_Interval]) -> bool:
        close = self.best.seconds * (1 - CLOSE_FRACTION)
        return bool(intervals) and intervals[0].bound_seconds < close

    def _ends(self) -> list[tuple[float, float]]:
        """Return the times worth looking at, cut where the longest sequence fits other kinds."""
        low, high = self._bound.longest_seconds, self.best.seconds - self._bound.others_seconds
        longest = max(self._lengths)
        holding = [kind.cost for kind in self._kinds if kind.cost.capacity_tokens >= longest]
        cuts = {cost.seconds([longest]) * (1 - JUST_BEFORE) for cost in holding}
        ends = [low, *sorted(cut for cut in cuts if low < cut < high), max(low, high)]
        return list(itertools.pairwise(ends))

    def _refined(self, interval: _Interval, solver: SolverChain, seconds: float) -> list[_Interval]:
        """Ask the program at the end of a new interval, in the middle of a known one."""
        if interval.left_work < 0:
            left_work = self._left_work(interval.low, interval.high, solver, seconds)
            return [self._interval(interval.low, interval.high, left_work, interval)]
        middle = (interval.low + interval.high) / 2
        asked = self._left_work(interval.low, middle, solver, seconds)
        left_work = max(interval.left_work, asked)
        return [
            self._interval(interval.low, middle, left_work, interval),
            self._interval(middle, interval.high, interval.left_work, interval),
        ]

    def _left_work(self, low: float, high: float, solver: SolverChain, seconds: float) -> float:
        """Return what is left at least, 0 where that is not known, and try the program's plan.

        Only plans faster than the best count: what this micro-batch takes the others may not.
        """
        more = max(0, self._bound.least_micro_batches - 2) * self._bound.fixed_seconds
        others = self.best.seconds - low - more
        limit = min(seconds, MOST_PROGRAM_SECONDS)
        first = self._program.solve(high, solver, others_seconds=others, time_limit_seconds=limit)
        if first is None:
            return 0.0
        if first.num_groups:
            self._try(first, high)
        return first.left_work

    def _interval(self, low: float, high: float, left_work: float, parent: _Interval) -> _Interval:
        others = left_work / self._bound.strength
        return _Interval(max(parent.bound_seconds, low + others), low, high, left_work)

    def _try(self, first: First, target: float) -> None:
        """Make a plan of what the program says, and keep it if it is the best."""
        drafts, rest = self._first_micro_batch(first, target)
        if not drafts:
            return
        head = Packed.of([drafts])
        if rest.longest() < 0:
            self._keep(head)
            return
        tokens = sum(
            length * count for length, count in zip(rest.lengths, rest.counts, strict=True)
        )
        least = math.ceil(tokens / sum(self._fleet.device_capacities))
        for number in (least, least + 1):
            search = Search(self._fleet, self._kinds)
            others = search.best(rest, number, self.best.seconds - head.seconds)
            if others is not None:
                self._keep(Packed.of([drafts, *others.micro_batches]))
                return

    def _keep(self, packed: Packed) -> None:
        self.best = min(self.best, exchanged(packed), key=lambda found: found.seconds)

    def _first_micro_batch(self, first: First, target: float) -> tuple[list[Draft], Pool]:
        """Pack each kind's share into as many groups of it, then fill all with what else fits."""
        shares = self._program.whole_shares(first)
        room, drafts, unplaced = Room(self._floor), [], Pool(self._lengths)
        kinds = self._kinds
        for k in sorted(range(len(kinds)), key=lambda k: -kinds[k].cost.degree):
            own = Pool(shares[k])
            for _ in range(first.num_groups[k]):
                pieces = room.take(kinds[k])
                if pieces is not None:
                    drafts.append(Draft(kinds[k], pieces, []))
                    fill(drafts[-1], own, own.longest(), target)
        unplaced.take_all(length for draft in drafts for length in draft.lengths)
        for draft in drafts:
            fill(draft, unplaced, unplaced.longest(), target)
        drafts += pack(unplaced, kinds, room, target)
        return [draft for draft in drafts if draft.lengths], unplaced
