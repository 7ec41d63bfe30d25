"""Ground floor: hardware, models, workloads and plans; imports no torch and none of the others."""

from planner.errors import (
    DocumentError,
    InfeasibleError,
    PlannerError,
    SolverError,
    TimeLimitError,
)

__all__ = ["DocumentError", "InfeasibleError", "PlannerError", "SolverError", "TimeLimitError"]
