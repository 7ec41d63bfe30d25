"""The seam between the performance model and the simulator: how long one step of a replica takes."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one step of continuous batching computes; averages over steps may be fractions."""

    prefill_tokens: float
    """Prompt tokens computed in this step, all chunks together."""
    prefill_pairs: float
    """Query-key pairs of the chunks: sum of new_tokens * (past_tokens + (new_tokens + 1) / 2)."""
    decode_sequences: float
    """Sequences that get their next token in this step."""
    decode_context_tokens: float
    """Sum of the contexts of the decoding sequences."""


class StepTimes(Protocol):
    """The speed of one replica.

    With the other fields fixed, the seconds are affine in `decode_context_tokens`: the simulator
    jumps over runs of decode steps by summing an arithmetic progression.
    """

    def step_seconds(self, batch: StepBatch) -> float:
        """Return the seconds the step takes, above 0."""
        ...
