"""What solving a fleet problem came to, as data."""

from dataclasses import dataclass
from typing import Literal

PROVEN_GAP_FRACTION = 1e-6
"""A relative gap up to this is rounding: the plan counts as optimal."""

Status = Literal["optimal", "feasible", "infeasible", "time_limit"]

RowShares = tuple[tuple[int, float], ...]
"""(column, share) pairs of one row, by column; the shares are above 0 and sum to 1."""

Shares = tuple[RowShares, ...]
"""By row."""


@dataclass(frozen=True, slots=True)
class CountsFound:
    """Replica counts, and how good they provably are."""

    status: Status
    counts: tuple[int, ...] = ()
    """Replicas by column; empty unless optimal or feasible."""
    cost_usd_per_hour: float = 0.0
    bound_usd_per_hour: float = 0.0
    """No plan costs less. Of the whole problem, never of a part of it."""
    solver: str = ""


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """A plan with its certificate, or why there is none."""

    status: Status
    """`feasible`: a plan with an open gap. `time_limit`: nothing was found in time."""
    counts: tuple[int, ...]
    """Replicas by column; empty where there is no plan."""
    shares: Shares
    """In normal operation; empty where there is no plan."""
    shares_without_market: tuple[tuple[str, Shares], ...]
    """By market whose loss is survived: the shares to route by while it is gone."""
    cost_usd_per_hour: float
    bound_usd_per_hour: float
    solver: str
    """Name of the solver that answered, and `decomposed` where the problem was taken apart."""
    seconds: float

    @property
    def gap_fraction(self) -> float:
        """How far the cost may lie above the cheapest, as a share of the cost."""
        return gap_fraction(self.cost_usd_per_hour, self.bound_usd_per_hour)


def gap_fraction(cost_usd_per_hour: float, bound_usd_per_hour: float) -> float:
    """Return the gap as a share of the cost; 0 for a fleet that costs nothing."""
    if cost_usd_per_hour <= 0:
        return 0.0
    return max(0.0, (cost_usd_per_hour - bound_usd_per_hour) / cost_usd_per_hour)
