"""Rank 0 plans the next step on a CPU thread while this one trains; every rank uses that plan.

A plan is on the disk before it is used. A step that a resumed run takes again takes it from there:
solvers with a time limit do not answer twice alike, and another plan adds gradients in another order.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from finetune.errors import LocalRunError
from finetune.local_runs.local_text import BatchOrder, TokenRow
from finetune.local_runs.plan_journal import PlanJournal
from finetune.local_runs.ranks import Ranks, from_rank_zero
from finetune.local_runs.step_plans import StepPlans
from planner.training.training_plan import BatchPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What every rank knows of a step before it.

    Attributes:
        plan: Whose groups train what.
        positions: Documents of the step, in the order of the plan's lengths.
        waited_seconds: How long rank 0 waited for the plan.
    """

    plan: BatchPlan
    positions: tuple[int, ...]
    waited_seconds: float


class PlanningAhead:
    """Plans steps in order, one ahead; used as a context."""

    def __init__(
        self,
        plans: StepPlans | None,
        journal: PlanJournal | None,
        rows: Sequence[TokenRow],
        order: BatchOrder,
        ranks: Ranks,
    ) -> None:
        """Keep what is needed; `plans` and `journal` are rank 0's and none on others."""
        self._plans, self._journal = plans, journal
        self._rows, self._order, self._ranks = rows, order, ranks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="planning")
        self._next: tuple[int, Future[BatchPlan]] | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget a plan that nobody waits for any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def take(self, step: int) -> PlannedStep:
        """Return a step's plan, on every rank the same, and begin with the one behind it.

        Args:
            step: From 0.

        Raises:
            FinetuneError: If there is no plan; on every rank.
            PlannerError: On rank 0, if its solver finds none.
        """
        started = time.monotonic()
        # As text: what every rank trains by is what stands in the journal.
        text = from_rank_zero(self._ranks, lambda: self._taken(step).model_dump_json())
        waited_seconds = time.monotonic() - started
        if self._ranks.rank == 0 and step + 1 < self._order.num_steps:
            self._begin(step + 1)
        plan = BatchPlan.model_validate_json(text)
        return PlannedStep(plan, self._order.positions(step), waited_seconds)

    def _taken(self, step: int) -> BatchPlan:
        """Return the recorded plan, or the one that is being made; record it."""
        assert self._journal is not None  # rank 0 has one
        lengths = self._lengths(step)
        recorded = self._journal.plan(step)
        if recorded is not None:
            if recorded.lengths != lengths:
                raise LocalRunError(
                    f"plans.jsonl: step {step + 1} was planned for other text; bring the data "
                    "back or start a new run"
                )
            return recorded
        if self._next is None or self._next[0] != step:
            self._begin(step)
        assert self._next is not None  # begun
        plan = self._next[1].result()
        self._journal.append(step, plan)
        logger.debug(
            "step planned step=%d micro_batches=%d predicted_seconds=%.4g planning_seconds=%.3g",
            step + 1,
            len(plan.micro_batches),
            plan.predicted_seconds,
            plan.planning_seconds,
        )
        return plan

    def _begin(self, step: int) -> None:
        assert self._plans is not None  # rank 0 has them
        assert self._journal is not None
        if self._journal.plan(step) is None:
            future = self._thread.submit(self._plans.plan, step, self._lengths(step))
            self._next = step, future

    def _lengths(self, step: int) -> tuple[int, ...]:
        return tuple(len(self._rows[position]) for position in self._order.positions(step))
