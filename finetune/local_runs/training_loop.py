"""The steps of a local run: plan, gradients, optimiser, metrics, checkpoint."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from finetune.errors import LocalRunError
from finetune.local_runs import checkpoint
from finetune.local_runs.checkpoint import CheckpointHeader
from finetune.local_runs.local_folder import LocalFolder, StepLine
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_text import LocalText
from finetune.local_runs.planning_ahead import PlannedStep, PlanningAhead
from finetune.local_runs.ranks import Ranks, on_rank_zero
from finetune.local_runs.weight_steps import WeightSteps
from finetune.sequence_parallel.step import SequenceParallelStep, StepResult
from planner.training.calibration import GroupMeasurement
from planner.training.training_plan import BatchPlan


class LocalObserver(Protocol):
    """Who watches a local run, on rank 0."""

    def phase(self, text: str) -> None:
        """Something else than steps goes on now."""

    def steps_done(self, history: Sequence[StepLine], *, num_steps: int) -> None:
        """A step was recorded, or a run that goes on was read: these are its steps so far."""


class TrainingLoop:
    """What a step needs, on one rank."""

    def __init__(
        self,
        job: LocalJob,
        model: nn.Module,
        step: SequenceParallelStep,
        text: LocalText,
        ranks: Ranks,
        run: LocalFolder,
    ) -> None:
        """Begin with moments of zero.

        Args:
            job: What to do.
            model: The network, where `step` has put it.
            step: Computes the gradients.
            text: What is trained on.
            ranks: This process among the others.
            run: Where rank 0 keeps the run.
        """
        self._job, self._model, self._step = job, model, step
        self._text, self._ranks, self._run = text, ranks, run
        self.weights = WeightSteps(model, job)

    def restore(self) -> None:
        """Go on from the checkpoint; all ranks must call.

        Raises:
            RunFolderError: If it is damaged.
        """
        checkpoint.load(self._run.checkpoint, self._model, self.weights.optimiser, self._ranks)

    def save(self, header: CheckpointHeader) -> None:
        """Replace the checkpoint; all ranks must call.

        Raises:
            RunFolderError: If the disk does not take it.
        """
        checkpoint.save(
            self._run.checkpoint, header, self._model, self.weights.optimiser, self._ranks
        )

    def train(
        self,
        planning: PlanningAhead,
        start: CheckpointHeader,
        *,
        num_steps: int,
        told: Callable[[StepLine], None],
    ) -> None:
        """Take the steps behind `start`; all ranks must call.

        Args:
            planning: Gives each step's plan.
            start: Of the checkpoint that the model is in, or of the untrained model.
            num_steps: Of the whole run.
            told: Called on rank 0 after each step that is recorded.
        """
        for index in range(start.completed_steps, num_steps):
            line = self._one_step(index, planning.take(index))
            done = index + 1
            if self._ranks.rank == 0:
                told(line)
            if done % self._job.checkpoint_every == 0 or done == num_steps:
                self.save(start.model_copy(update={"completed_steps": done}))

    def _one_step(self, index: int, planned: PlannedStep) -> StepLine:
        started = time.monotonic()
        rows = [self._text.training[position] for position in planned.positions]
        self._model.train()
        # Dropout, where the model has any, depends on nothing that an interruption would change.
        torch.manual_seed(_step_seed(self._job.seed, index, self._ranks.rank))
        result = self._step.accumulate(planned.plan, rows)
        norm = self.weights.take(index)
        _check_finite(index + 1, result.loss, norm)
        seconds = time.monotonic() - started
        timings = self._ranks.gather(_seconds_by_micro_batch(planned.plan, result, self._ranks))
        line = StepLine(
            step=index + 1,
            loss=result.loss,
            tokens=sum(map(len, rows)),
            learning_rate=self.weights.rate(index),
            gradient_norm=norm,
            num_micro_batches=len(planned.plan.micro_batches),
            predicted_seconds=planned.plan.predicted_seconds,
            seconds=seconds,
            planning_seconds=planned.plan.planning_seconds,
            waited_seconds=planned.waited_seconds,
        )
        on_rank_zero(
            self._ranks,
            lambda: self._run.append(line, measured_groups(planned.plan, rows, timings)),
        )
        return line


def measured_groups(
    plan: BatchPlan, rows: Sequence[Any], timings: Sequence[Sequence[float | None]]
) -> list[GroupMeasurement]:
    """Return what each group of a step took: the time of the rank that came to it last.

    The others wait in its first exchange for that one, which an earlier micro-batch kept longer.

    Args:
        plan: Of the step.
        rows: Its sequences.
        timings: By rank and micro-batch, seconds; None where the rank was in no group.
    """
    return [
        GroupMeasurement(
            lengths=tuple(len(rows[place]) for place in group.sequences),
            ranks=group.ranks,
            seconds=min(
                seconds for rank in group.ranks if (seconds := timings[rank][number]) is not None
            ),
        )
        for number, micro_batch in enumerate(plan.micro_batches)
        for group in micro_batch.groups
    ]


def _seconds_by_micro_batch(
    plan: BatchPlan, result: StepResult, ranks: Ranks
) -> list[float | None]:
    """Return this rank's times, with a gap for each micro-batch in which it had no group."""
    own = iter(result.timings)
    return [
        next(own).seconds if any(ranks.rank in g.ranks for g in micro_batch.groups) else None
        for micro_batch in plan.micro_batches
    ]


def _check_finite(step: int, loss: float, norm: float) -> None:
    """Refuse on every rank alike to go on with weights that are no numbers, nor to keep them."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise LocalRunError(
            f"step {step}: the loss is {loss:.4g} and the norm of its gradients {norm:.4g}; lower "
            "learning_rate and start a new run"
        )


def _step_seed(seed: int, index: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, index, rank)).generate_state(1, np.uint64)[0])
