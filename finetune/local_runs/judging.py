"""The held-out loss of a local run's model, by the same groups of ranks that train it."""

import math

from torch import nn

from finetune.errors import LocalRunError
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_text import LocalText
from finetune.local_runs.ranks import Ranks, from_rank_zero
from finetune.local_runs.step_plans import StepPlans
from finetune.sequence_parallel.step import SequenceParallelStep
from planner.training.training_plan import BatchPlan


class Judge:
    """Scores the held-out sequences; the loss is a function of the weights and of its plans."""

    def __init__(
        self, text: LocalText, job: LocalJob, plans: StepPlans | None, ranks: Ranks
    ) -> None:
        """Plan the held-out sequences, once; `plans` are rank 0's and none on others.

        Raises:
            LocalRunError: If a sequence fits no group of devices; rank 0 says it in its own words.
        """
        size = job.batch_size
        rows = text.held_out
        self._batches = [rows[start : start + size] for start in range(0, len(rows), size)]

        def planned() -> list[str]:
            assert plans is not None  # rank 0 has them
            lengths = [tuple(len(row) for row in batch) for batch in self._batches]
            return [plans.plan_held_out(batch).model_dump_json() for batch in lengths]

        texts = from_rank_zero(ranks, planned)
        self._plans = [BatchPlan.model_validate_json(text) for text in texts]

    def loss(self, step: SequenceParallelStep, model: nn.Module) -> tuple[float, int]:
        """Return the mean loss, nats a token, and the tokens predicted; all ranks must call.

        Raises:
            LocalRunError: If the loss is no number; on every rank.
        """
        total, num_tokens = 0.0, 0
        model.eval()
        for plan, batch in zip(self._plans, self._batches, strict=True):
            result = step.evaluate(plan, batch)
            total += result.loss * result.num_targets
            num_tokens += result.num_targets
        if not math.isfinite(total):
            raise LocalRunError(
                f"the held-out loss is {total:.4g}; lower learning_rate and start a new run, or take "
                "another base model"
            )
        return total / num_tokens, num_tokens
