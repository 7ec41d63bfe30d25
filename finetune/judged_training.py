"""A round at a client: judge the adapter that came, then train from it.

Judging what was sent anyway costs no download; round t so judges the adapter of t - 1 rounds. A
sparse job's client judges the copy it was sent, which is what it trains from, and a client with a
`rank` of its own its own components; the judgement at the end is of the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.flower import Trainer
    from finetune.updates import Tensors

HELD_OUT_LOSS, HELD_OUT_TOKENS = "held-out-loss", "held-out-tokens"
"""Keys of a train reply's metrics."""


def is_judged(round_number: int, *, every: int) -> bool:
    """Return whether clients judge at the start of a round, from 1; not in the first.

    What the first round starts from is the base model, which was judged before it.

    Args:
        round_number: Counts from 1.
        every: The job's `judge_every`; 0 is never.
    """
    return every > 0 and round_number > 1 and (round_number - 1) % every == 0


class JudgedTraining:
    """Trains as its trainer does, after judging where that is due; used for one message."""

    def __init__(
        self, trainer: Trainer, *, round_number: int, every: int, num_steps: int | None = None
    ) -> None:
        """Keep what is needed.

        Args:
            trainer: Trains and judges.
            round_number: Counts from 1; decides the batches.
            every: The job's `judge_every`.
            num_steps: Steps to take, where they are not the job's.
        """
        self._trainer = trainer
        self._steps = {} if num_steps is None else {"num_steps": num_steps}
        self._round_number = round_number
        self._is_due = is_judged(round_number, every=every)
        self.metrics: dict[str, float] = {}
        """What the reply says of the adapter that was sent; empty where it was not judged."""

    def __call__(self, tensors: Tensors) -> tuple[Tensors, float]:
        """Return the adapter after local training from `tensors`, and the mean training loss."""
        if self._is_due:
            loss, num_tokens = self._trainer.evaluate(tensors)
            self.metrics = {HELD_OUT_LOSS: loss, HELD_OUT_TOKENS: num_tokens}
        return self._trainer.train(tensors, round_number=self._round_number, **self._steps)
