"""When a scheduled job has made its versions, and when a client is let go."""

import logging
from dataclasses import dataclass

from finetune.scheduled_rounds.desk import Desk
from finetune.scheduling.decisions import Decision
from finetune.scheduling.fedast import FedAst
from finetune.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """The job's bounds.

    Attributes:
        adapters: Names of those that are trained.
        num_versions: Of each; what has arrived by then and waits makes one more.
        most_refusals: In a row, of one client.
    """

    adapters: tuple[str, ...]
    num_versions: int
    most_refusals: int

    def is_reached(self, scheduler: Scheduler) -> bool:
        """Return whether every adapter has its versions."""
        return all(self._has_all(scheduler, adapter) for adapter in self.adapters)

    def decisions(self, scheduler: Scheduler, *, now: float) -> list[Decision]:
        """End the training of adapters that have their versions, and the run once all have."""
        if scheduler.ledger.is_finished:
            return []
        if self.is_reached(scheduler):
            return scheduler.finish(now=now)
        ended: list[Decision] = []
        if isinstance(scheduler, FedAst):
            for adapter in self.adapters:
                is_done = scheduler.progress[adapter].is_complete
                if self._has_all(scheduler, adapter) and not is_done:
                    ended += scheduler.complete(adapter, now=now)
        return ended

    def lets_go(self, desk: Desk, client: str) -> bool:
        """Return whether a client was refused too often, and log it."""
        num_refusals = desk.refusals_in_a_row.get(client, 0)
        if num_refusals < self.most_refusals or client not in desk.nodes:
            return False
        logger.warning("client left out client=%s refusals_in_a_row=%d", client, num_refusals)
        return True

    def _has_all(self, scheduler: Scheduler, adapter: str) -> bool:
        return scheduler.ledger.version(adapter) >= self.num_versions
