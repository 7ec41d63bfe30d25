"""Why a replica cannot exist, or cannot serve a size, as data."""

from dataclasses import dataclass
from typing import Literal

Binding = Literal["compute", "memory", "sequences", "ttft", "tpot"]
"""What ends a replica's rate; `compute`: prompts take all the time."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason."""

    kind: Binding | Literal["parallelism", "dtype", "context"]
    text: str
    """What, the value, what would help; one line."""
    over_limit: float | None = None
    """How many times its limit a latency is; nothing: another reason."""
