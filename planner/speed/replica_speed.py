"""What planning and simulation need to know of one replica: the speed of a step and three limits."""

from dataclasses import dataclass

from planner.hardware.coefficients import Coefficients
from planner.speed.obstacle import Obstacle
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_memory import design_obstacle, kv_capacity_tokens
from planner.speed.step_model import RooflineStepTimes
from planner.speed.step_times import StepTimes


@dataclass(frozen=True, slots=True)
class ReplicaSpeed:
    """One replica, computed or measured."""

    step_times: StepTimes
    kv_capacity_tokens: int
    """Context that the cache holds, all sequences together."""
    max_context_tokens: int
    """Longest sequence, prompt and answer together."""
    max_sequences: int
    """Sequences that run at once."""
    max_batched_tokens: int
    """Tokens of one step."""
    request_overhead_seconds: float = 0.0
    """Beside its steps, until the client has the first token; measured replicas alone have it."""

    @property
    def longest_request_tokens(self) -> int:
        """Longest sequence that it serves: the context, where the cache has room for as much."""
        return min(self.max_context_tokens, self.kv_capacity_tokens)


def replica_speed(design: ReplicaDesign, coefficients: Coefficients) -> ReplicaSpeed | Obstacle:
    """Return the speed of a replica so designed, or why there can be none."""
    obstacle = design_obstacle(design)
    if obstacle is not None:
        return obstacle
    return ReplicaSpeed(
        step_times=RooflineStepTimes(design, coefficients),
        kv_capacity_tokens=kv_capacity_tokens(design),
        max_context_tokens=design.model.max_context_tokens,
        max_sequences=design.max_sequences,
        max_batched_tokens=design.max_batched_tokens,
    )
