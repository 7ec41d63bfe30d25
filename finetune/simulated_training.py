"""Real local training under the virtual clock: gradients are computed, times are not measured."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from finetune.scheduling.decisions import Assignment
from finetune.strategies.changes import change
from finetune.updates import Tensors, Update, refusal_reason
from finetune.virtual_clock import LocalResult


class StepTrainer(Protocol):
    """One client's model and text; `local_training.LocalTrainer` is one."""

    num_examples: int
    """Training sequences it holds."""

    def train(
        self, tensors: Tensors, *, round_number: int, num_steps: int
    ) -> tuple[Tensors, float]:
        """Return the adapter after so many steps from `tensors`, and the mean training loss."""


class RealTraining:
    """Lets each assignment's client train; dense tensors cross both ways, without headers."""

    def __init__(self, trainers: Mapping[str, StepTrainer]) -> None:
        """Keep the trainers by the client's name."""
        self._trainers = trainers

    def train(self, tensors: Tensors, assignments: Sequence[Assignment]) -> list[LocalResult]:
        """Return one checked result for each assignment; its number decides the batches."""
        return [self._one(tensors, assignment) for assignment in assignments]

    def _one(self, tensors: Tensors, assignment: Assignment) -> LocalResult:
        trainer = self._trainers[assignment.client]
        trained, loss = trainer.train(
            tensors, round_number=assignment.number, num_steps=assignment.steps
        )
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        update = Update(assignment.client, trained, trainer.num_examples, loss, num_bytes)
        usable = refusal_reason(update, like=tensors) is None
        return LocalResult(
            change=change(trained, tensors) if usable else {},
            loss=loss,
            download_bytes=num_bytes,
            upload_bytes=num_bytes,
            is_usable=usable,
        )
