"""The plan of a training job: each global batch in turn, with what it is compared to."""

import time
from collections.abc import Callable, Sequence

from planner.training.cluster import Cluster
from planner.training.homogeneous import best_homogeneous, homogeneous_plan, static_degree
from planner.training.lengths import AdmittedLengths
from planner.training.plan_groups import plan_groups
from planner.training.sequence_costs import SequenceCosts, TrainingFleet
from planner.training.training_plan import BatchPlan, SolverName, TrainingPlan
from planner.training.verify_plan import verify_batch

OnBatch = Callable[[BatchPlan], None]
"""Told of each batch as soon as it is planned."""


def plan_training(
    admitted: AdmittedLengths,
    fleet: TrainingFleet,
    *,
    model: str,
    batch_size: int,
    pad_to: int = 1,
    num_batches: int | None = None,
    solver: SolverName = "heuristic",
    time_limit_seconds: float = 5.0,
    degree: int | None = None,
    on_batch: OnBatch = lambda _: None,
) -> TrainingPlan:
    """Return a plan of global batches, each checked by the independent verifier.

    Args:
        admitted: Lengths in the order of training.
        fleet: Costs on the cluster.
        model: Name of what is trained.
        batch_size: Sequences of a global batch.
        pad_to: To what lengths were padded.
        num_batches: Batches planned, from the first; by default all.
        solver: What looks for groups.
        time_limit_seconds: Most that the MILP takes for one batch.
        degree: Of the static plan; by default the least that holds the longest sequence admitted.
        on_batch: Told of each batch.

    Raises:
        InfeasibleError: If a sequence is longer than the cluster holds.
    """
    static = static_degree(fleet, longest_tokens=fleet.max_tokens) if degree is None else degree
    batches = []
    for number, lengths in enumerate(admitted.batches(batch_size)):
        if num_batches is not None and number >= num_batches:
            break
        batch = plan_batch(
            lengths, fleet, solver=solver, time_limit_seconds=time_limit_seconds, degree=static
        )
        on_batch(batch)
        batches.append(batch)
    return TrainingPlan(
        schema_version=1,
        model=model,
        cluster=fleet.cluster,
        costs=fleet.costs,
        max_tokens=fleet.max_tokens,
        pad_to=pad_to,
        batch_size=batch_size,
        num_dropped_long=admitted.num_dropped_long,
        num_dropped_empty=admitted.num_dropped_empty,
        not_runnable=_obstacle(batches, fleet),
        notes=_notes(fleet.costs, fleet.cluster, batches),
        batches=tuple(batches),
    )


def plan_batch(
    lengths: Sequence[int],
    fleet: TrainingFleet,
    *,
    solver: SolverName = "heuristic",
    time_limit_seconds: float = 5.0,
    degree: int | None = None,
) -> BatchPlan:
    """Return one global batch planned, verified and compared with groups of one degree.

    Args:
        lengths: Tokens of each sequence, padded.
        fleet: Costs on the cluster.
        solver: What looks for groups.
        time_limit_seconds: Most that the MILP takes.
        degree: Of the static plan; None: no such plan.

    Raises:
        InfeasibleError: If a sequence is longer than the cluster holds.
    """
    begun = time.perf_counter()
    answer = plan_groups(lengths, fleet, solver=solver, time_limit_seconds=time_limit_seconds)
    planning_seconds = time.perf_counter() - begun
    batch = BatchPlan(
        lengths=tuple(lengths),
        micro_batches=answer.micro_batches,
        predicted_seconds=answer.predicted_seconds,
        lower_bound_seconds=answer.lower_bound_seconds,
        solver=answer.solver,
        planning_seconds=planning_seconds,
        static=None if degree is None else homogeneous_plan(lengths, fleet, degree=degree),
        homogeneous=best_homogeneous(lengths, fleet),
    )
    verify_batch(
        batch,
        cluster=fleet.cluster,
        costs=fleet.costs,
        max_tokens=fleet.max_tokens,
        ignores_heads=fleet.ignores_heads,
    )
    return batch


def _used_degrees(batches: Sequence[BatchPlan]) -> set[int]:
    return {
        group.degree for batch in batches for part in batch.micro_batches for group in part.groups
    }


def _obstacle(batches: Sequence[BatchPlan], fleet: TrainingFleet) -> str | None:
    """Return why the trainer cannot run the plan, or None."""
    if not fleet.ignores_heads:
        return None
    heads = fleet.costs.num_query_heads
    odd = sorted(degree for degree in _used_degrees(batches) if heads % degree)
    told = f"; degrees {odd} do not divide {heads} query heads" if odd else ""
    return f"planned with --ignore-heads{told}; plan again without it"


def _notes(costs: SequenceCosts, cluster: Cluster, batches: Sequence[BatchPlan]) -> tuple[str, ...]:
    notes = []
    table = costs.all_to_all_bytes_per_second
    beyond = sorted(d for d in _used_degrees(batches) if table and d > max(table))
    if beyond:
        notes.append(
            f"exchanges of degrees {beyond} are costed at the rate measured for {max(table)}, the "
            "largest measured; in truth they are slower"
        )
    elif table and cluster.num_devices > max(table):
        notes.append(
            f"exchange rates are measured up to degree {max(table)}; on {cluster.num_devices} "
            f"devices larger groups would be costed at the rate of {max(table)}"
        )
    fixed = costs.micro_batch_seconds * sum(len(batch.micro_batches) for batch in batches)
    total = sum(batch.predicted_seconds for batch in batches)
    if fixed > total / 2:
        notes.append(
            f"{fixed / total:.0%} of the time is fixed, {costs.micro_batch_seconds:.3g} s a "
            "micro-batch, as for gathering sharded weights over slow links; a faster link, or fewer "
            "islands, may be quicker"
        )
    return tuple(notes)
