"""Which islands a job is better started on: slow links between some may cost more than they add."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from planner.errors import InfeasibleError
from planner.training.cluster import Cluster
from planner.training.plan_groups import plan_groups
from planner.training.sequence_costs import TrainingFleet

MOST_ISLANDS = 6
"""Of more, only all and all but one are compared."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The islands to start on, and why some are left out."""

    fleet: TrainingFleet
    note: str | None


def fastest_islands(
    cluster: Cluster,
    batches: Sequence[Sequence[int]],
    fleet_on: Callable[[Cluster], TrainingFleet],
) -> Chosen:
    """Return the islands on which the heuristic plans the batches fastest; all of them on ties.

    Args:
        cluster: All islands.
        batches: Lengths of some global batches, by which islands are judged.
        fleet_on: Costs on a cluster; that of some islands gathers weights among them only.
    """
    everything = fleet_on(cluster)
    total = _seconds(everything, batches)
    best, least = everything, total
    for islands in _subsets(len(cluster.islands)):
        fleet = fleet_on(cluster.with_islands(cluster.islands[i] for i in islands))
        seconds = _seconds(fleet, batches)
        if seconds < least:
            best, least = fleet, seconds
    if best is everything:
        return Chosen(everything, None)
    used = {island.name for island in best.cluster.islands}
    why = (
        "cannot hold the job"
        if math.isinf(total)
        else f"take {total:.4g} s, since sharded weights cross the link between islands"
    )
    left = ", ".join(i.name for i in cluster.islands if i.name not in used)
    return Chosen(
        best,
        f"left out: {left}; start the job on {', '.join(sorted(used))} alone, where the first "
        f"{len(batches)} batches take {least:.4g} s; all islands {why}; --all-islands insists",
    )


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Give the islands of each choice that leaves some out, most islands first."""
    least = 1 if count <= MOST_ISLANDS else count - 1
    for size in range(count - 1, least - 1, -1):
        yield from combinations(range(count), size)


def _seconds(fleet: TrainingFleet, batches: Sequence[Sequence[int]]) -> float:
    try:
        return sum(plan_groups(lengths, fleet).predicted_seconds for lengths in batches)
    except InfeasibleError:
        return float("inf")
