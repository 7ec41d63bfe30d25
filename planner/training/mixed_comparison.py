"""A plan on unlike devices beside the two that pass over the difference."""

import math
from collections.abc import Callable, Sequence

from planner.errors import InfeasibleError
from planner.training.cluster import Cluster
from planner.training.plan_groups import plan_groups
from planner.training.sequence_costs import TrainingFleet


def mixed_notes(
    cluster: Cluster,
    batches: Sequence[Sequence[int]],
    plan_seconds: float,
    fleet_on: Callable[[Cluster], TrainingFleet],
) -> tuple[str, ...]:
    """Return what the batches would take without the slow islands, and as if all were the slowest.

    Args:
        cluster: All islands; without unlike ones there is nothing to say.
        batches: Lengths of the planned batches.
        plan_seconds: What the plan takes for them.
        fleet_on: Costs on a cluster.
    """
    if len({(i.relative_speed, i.memory_bytes) for i in cluster.islands}) == 1:
        return ()
    fastest = max(island.relative_speed for island in cluster.islands)
    quick = [island for island in cluster.islands if island.relative_speed == fastest]
    found = []
    if len(quick) < len(cluster.islands):
        seconds = _seconds(fleet_on(cluster.with_islands(quick)), batches)
        found.append(_told("slow devices ignored", seconds, plan_seconds))
    slow = {
        "relative_speed": min(island.relative_speed for island in cluster.islands),
        "memory_bytes": min(island.memory_bytes for island in cluster.islands),
    }
    alike = [island.model_copy(update=slow) for island in cluster.islands]
    seconds = _seconds(fleet_on(cluster.with_islands(alike)), batches)
    found.append(_told("all devices treated as the slowest", seconds, plan_seconds))
    return tuple(found)


def _seconds(fleet: TrainingFleet, batches: Sequence[Sequence[int]]) -> float:
    try:
        return sum(plan_groups(lengths, fleet).predicted_seconds for lengths in batches)
    except InfeasibleError:
        return math.inf


def _told(how: str, seconds: float, plan_seconds: float) -> str:
    if math.isinf(seconds):
        return f"{how}: cannot hold the sequences"
    ratio = seconds / plan_seconds if plan_seconds else 1.0
    return f"{how}: {1e3 * seconds:,.2f} ms, {ratio:.2f}x the plan's time"
