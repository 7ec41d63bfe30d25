"""A pipeline as the numbers that decide its step time, given to prediction and simulation alike."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Boundary:
    """What carries one micro-batch from a stage to the next, or its gradient back."""

    busy_seconds: float
    """How long the link is taken; one micro-batch at a time in each direction."""
    latency_seconds: float = 0.0
    """Until the last byte arrives after that; the link is free meanwhile."""

    @property
    def seconds(self) -> float:
        """From sending to arrival on a free link."""
        return self.busy_seconds + self.latency_seconds


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages under the schedule 1F1B (PipeDream-Flush, arXiv 2006.09503).

    Stage k of p runs p - 1 - k forwards, then forward and backward in turn, then the backwards left.
    Sending never holds a stage up. When its last backward is done a stage all-reduces its gradients;
    the next step begins when all have.
    """

    num_micro_batches: int
    forward_seconds: tuple[float, ...]
    """By stage, of one micro-batch."""
    backward_seconds: tuple[float, ...]
    """By stage, of one micro-batch."""
    boundaries: tuple[Boundary, ...]
    """Between stages: one fewer than these."""
    gradient_seconds: tuple[float, ...]
    """By stage, once."""
    table_seconds: float = 0.0
    """Of the exchange of the tied table's gradients between first and last stage, after theirs."""

    @property
    def num_stages(self) -> int:
        """Stages."""
        return len(self.forward_seconds)
