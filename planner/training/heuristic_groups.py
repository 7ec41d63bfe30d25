"""Unequal groups without a program: packed within targets that are searched, then exchanged.

It reads no clock: the same lengths give the same groups.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

from planner.training.group_exchange import exchanged
from planner.training.group_kinds import GroupKind, most_tokens
from planner.training.group_packing import Pool
from planner.training.group_search import Packed, Search
from planner.training.groups_bound import BatchBound
from planner.training.homogeneous_start import homogeneous_start
from planner.training.sequence_costs import TrainingFleet

MOST_VAIN = 2
"""Numbers of micro-batches in succession that were slower than fewer."""


def heuristic_groups(
    lengths: Sequence[int], fleet: TrainingFleet, kinds: Sequence[GroupKind], bound: BatchBound
) -> Packed:
    """Return the fastest groups found; no plan of groups of one degree that is known is faster."""
    search = Search(fleet, kinds)
    best = exchanged(_searched(lengths, search, bound))
    for start in _homogeneous(lengths, fleet, search, best.seconds):
        best = min(best, exchanged(start), key=lambda packed: packed.seconds)
    return best


def _searched(lengths: Sequence[int], search: Search, bound: BatchBound) -> Packed:
    """Search with the fewest micro-batches, then with more while that may help and does."""
    pool = Pool(lengths)
    everything = search.work(pool) / bound.strength
    best, upper, num_vain = None, math.inf, 0
    for number in itertools.count(bound.least_micro_batches):
        is_hopeless = number * bound.fixed_seconds + everything >= upper
        if is_hopeless or num_vain == MOST_VAIN or number > len(lengths):
            break
        found = search.best(pool, number, upper)
        if found is not None:
            best, upper, num_vain = found, found.seconds, 0
        elif best is not None:
            num_vain += 1
    assert best is not None  # as many micro-batches as sequences always do
    return best


def _homogeneous(
    lengths: Sequence[int], fleet: TrainingFleet, search: Search, upper_seconds: float
) -> Iterator[Packed]:
    """Yield the plans of one degree each, but those that cannot be faster."""
    for degree in fleet.degrees:
        kinds = [kind for kind in search.kinds if kind.cost.degree == degree]
        if max(lengths) > most_tokens(kinds):
            continue
        if BatchBound(lengths, fleet, kinds).seconds() < upper_seconds:
            start = homogeneous_start(lengths, kinds, search.floor)
            if start is not None:
                yield Packed.of(start)
