"""A scheduler's decisions carried out in their order, by whoever keeps the time."""

from collections.abc import Sequence
from typing import Protocol

from finetune.scheduling.decisions import (
    Aggregation,
    Arm,
    Assignment,
    Decision,
    Disarm,
    Discard,
)


class Executor(Protocol):
    """What can be decided."""

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Let clients train from the current versions."""

    def aggregate(self, aggregation: Aggregation) -> None:
        """Make the next version."""

    def arm(self, arm: Arm) -> None:
        """See to it that the scheduler is told of the deadline."""

    def disarm(self, disarm: Disarm) -> None:
        """Forget a deadline."""

    def discard(self, discard: Discard) -> None:
        """Forget an update that counts in no aggregation, and count it."""


def carry_out(decisions: Sequence[Decision], executor: Executor) -> None:
    """Do what was decided, in order; assignments in a row are handed over together."""
    together: list[Assignment] = []
    for decision in decisions:
        match decision:
            case Assignment():
                together.append(decision)
            case Aggregation():
                executor.assign(together)
                together = []
                executor.aggregate(decision)
            case Arm():
                executor.arm(decision)
            case Disarm():
                executor.disarm(decision)
            case Discard():
                executor.discard(decision)
    executor.assign(together)
