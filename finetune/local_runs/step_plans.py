"""The plan of each step: made from its lengths, or taken from a ready training plan."""

import time
from collections.abc import Sequence
from typing import Protocol

from finetune.errors import LocalRunError
from finetune.local_runs.local_job import LocalJob
from planner.training.plan_groups import plan_groups
from planner.training.sequence_costs import TrainingFleet
from planner.training.training_plan import BatchPlan, SolverName, TrainingPlan


class StepPlans(Protocol):
    """Gives the plan of a step."""

    def plan(self, step: int, lengths: Sequence[int]) -> BatchPlan:
        """Return the plan of a step, from 0, whose sequences have these lengths in tokens."""

    def plan_held_out(self, lengths: Sequence[int]) -> BatchPlan:
        """Return a plan to judge sequences of these lengths by; the same at every call."""


class SolvedPlans:
    """Plans each step by the job's solver."""

    def __init__(self, fleet: TrainingFleet, job: LocalJob) -> None:
        """Plan on a fleet."""
        self._fleet = fleet
        self._solver, self._seconds = job.solver, job.solver_seconds

    def plan(self, step: int, lengths: Sequence[int]) -> BatchPlan:
        """Return the solver's plan.

        Raises:
            PlannerError: If a sequence fits no group of devices.
        """
        return solved(lengths, self._fleet, solver=self._solver, time_limit_seconds=self._seconds)

    def plan_held_out(self, lengths: Sequence[int]) -> BatchPlan:
        """Return the heuristic's plan.

        Raises:
            PlannerError: If a sequence fits no group of devices.
        """
        return solved(lengths, self._fleet)


class ReadyPlans:
    """Follows a training plan that was made before, one of its batches a step."""

    def __init__(
        self, plan: TrainingPlan, *, num_steps: int, num_devices: int, num_heads: int
    ) -> None:
        """Check that the trainer can follow the plan.

        Raises:
            LocalRunError: If it cannot; the message names the part that it cannot follow.
        """
        _check_parallelism(plan)
        if plan.cluster.num_devices != num_devices:
            raise LocalRunError(
                f"plan: is for {plan.cluster.num_devices} devices and {num_devices} processes run; "
                f"start {plan.cluster.num_devices}, or plan again"
            )
        if len(plan.batches) < num_steps:
            raise LocalRunError(
                f"plan: has {len(plan.batches)} batches and the job takes {num_steps} steps; plan "
                "again from what --lengths writes"
            )
        self._fleet = TrainingFleet(plan.cluster, plan.costs, max_tokens=plan.max_tokens)
        self._batches, self._pad_to = plan.batches[:num_steps], plan.pad_to
        for step, batch in enumerate(self._batches):
            _check_batch(batch, step=step, num_devices=num_devices, num_heads=num_heads)

    def plan(self, step: int, lengths: Sequence[int]) -> BatchPlan:
        """Return the plan's batch with the sequences' own lengths, which it may have padded.

        Raises:
            LocalRunError: If it was made for other lengths.
        """
        batch = self._batches[step]
        padded = tuple(-(-length // self._pad_to) * self._pad_to for length in lengths)
        if batch.lengths != padded:
            place = next(
                (i for i, (a, b) in enumerate(zip(batch.lengths, padded, strict=False)) if a != b),
                min(len(batch.lengths), len(padded)),
            )
            raise LocalRunError(
                f"plan: batch {step + 1} is of other text ({_at(batch.lengths, place)} tokens in "
                f"sequence {place + 1}, the data has {_at(padded, place)}); plan again from what "
                "--lengths writes"
            )
        return batch.model_copy(update={"lengths": tuple(lengths)})

    def plan_held_out(self, lengths: Sequence[int]) -> BatchPlan:
        """Return the heuristic's plan on the plan's own cluster.

        Raises:
            PlannerError: If a sequence fits no group of devices.
        """
        return solved(lengths, self._fleet)


def solved(
    lengths: Sequence[int],
    fleet: TrainingFleet,
    *,
    solver: SolverName = "heuristic",
    time_limit_seconds: float = 5.0,
) -> BatchPlan:
    """Return a plan of one batch, without the comparisons that a trainer does not need.

    Raises:
        PlannerError: If a sequence fits no group of devices.
    """
    started = time.monotonic()
    answer = plan_groups(lengths, fleet, solver=solver, time_limit_seconds=time_limit_seconds)
    return BatchPlan(
        lengths=tuple(lengths),
        micro_batches=answer.micro_batches,
        predicted_seconds=answer.predicted_seconds,
        lower_bound_seconds=answer.lower_bound_seconds,
        solver=answer.solver,
        planning_seconds=time.monotonic() - started,
        static=None,
        homogeneous=None,
    )


def _at(lengths: Sequence[int], place: int) -> int | str:
    return lengths[place] if place < len(lengths) else "no"


def _check_parallelism(plan: TrainingPlan) -> None:
    if plan.not_runnable is not None:
        raise LocalRunError(f"plan: is not to be run ({plan.not_runnable})")
    placement = plan.placement
    for name, degree in (
        ("tensor", 1 if placement is None else placement.tensor),
        ("pipeline", 1 if placement is None else placement.pipeline),
    ):
        if degree > 1:
            raise LocalRunError(
                f"plan: its {name} degree is {degree}, and this trainer runs degree 1; render it "
                "for another with `motley plan render --target megatron` or torchtitan"
            )


def _check_batch(batch: BatchPlan, *, step: int, num_devices: int, num_heads: int) -> None:
    """Check what would break the step itself: who trains, and that each sequence is trained once."""
    trained: list[int] = []
    for micro_batch in batch.micro_batches:
        ranks = [rank for group in micro_batch.groups for rank in group.ranks]
        if len(set(ranks)) < len(ranks) or max(ranks) >= num_devices:
            raise LocalRunError(
                f"plan: batch {step + 1} has a device twice or one that is not there; plan again"
            )
        for group in micro_batch.groups:
            trained.extend(group.sequences)
            if num_heads % group.degree:
                raise LocalRunError(
                    f"plan: batch {step + 1} has a group of {group.degree} devices, which does not "
                    f"divide the model's {num_heads} query heads; plan again for this model"
                )
    if sorted(trained) != list(range(len(batch.lengths))):
        raise LocalRunError(f"plan: batch {step + 1} does not train each sequence once; plan again")
