"""The plan of a fleet: the document that renderers, the router and serving read."""

from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel
from planner.units import Count, Name, Number, Utilisation

LATENCY_NOT_VERIFIED = "latency not verified"
"""What a plan says of its latency while nothing has replayed it."""

Amount = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]


class PlannedReplicas(StrictModel):
    """Replicas of one offer; offers without replicas are left out."""

    model: Name
    """Served model."""
    offer: Name
    """Name of the offer in the planned file."""
    replicas: Annotated[int, Field(ge=1)]
    """How many to run."""
    max_replicas: Count | None
    """Cap the plan kept to; null: none."""
    price_usd_per_hour: Amount
    """Price of one replica."""
    cost_usd_per_hour: Amount
    """Price of all of them."""
    load_replicas: Amount
    """Planned load, in fully loaded replicas."""
    utilisation_fraction: Amount
    """Planned load of each replica."""
    utilisation_limit_fraction: Utilisation
    """Limit the load was planned under."""
    engine_arguments: tuple[str, ...]
    """Arguments for the engine of each replica."""


class PlannedSize(StrictModel):
    """Where requests of one size go."""

    model: Name
    """Served model."""
    input_tokens_over: Annotated[int, Field(ge=0)]
    """The size holds inputs longer than this,"""
    input_tokens_up_to: Annotated[int, Field(gt=0)]
    """and up to this."""
    output_tokens_over: Annotated[int, Field(ge=0)]
    """The size holds outputs longer than this,"""
    output_tokens_up_to: Annotated[int, Field(gt=0)]
    """and up to this."""
    rate_requests_per_second: Amount
    """Planned rate."""
    shares_fraction: dict[Name, Share]
    """Offer to its share of these requests, summing to 1; empty where the rate is 0, for which
    nothing was planned."""


class SingleTypeFleet(StrictModel):
    """The fleet that one offer alone would make, for comparison."""

    model: Name
    """Served model."""
    offer: Name
    """Name of the offer."""
    replicas: int | None
    """Replicas it takes; null: impossible at any number."""
    cost_usd_per_hour: Amount | None
    """What they cost; null: not to be had."""
    obstacle: str
    """Why it is not to be had; empty where it is."""


class FleetPlan(StrictModel):
    """How many replicas of which offer, which share of which request size, at what cost."""

    schema_version: Literal[1] = 1
    """Version of this document's layout."""
    kind: Literal["fleet-plan"] = "fleet-plan"
    """What this document is."""
    status: Literal["optimal", "feasible"]
    """`optimal`: no fleet is cheaper, by proof. `feasible`: one may be, by the gap at most."""
    cost_usd_per_hour: Amount
    """Price of the fleet."""
    bound_usd_per_hour: Amount
    """No fleet that serves the workload within the limits costs less."""
    gap_fraction: Share
    """(cost - bound) / cost."""
    solver: str
    """Solver that found the counts."""
    solver_fallbacks: int
    """How often a solver broke down and the next one answered."""
    solve_seconds: Amount
    """Time from the numbers to the plan, building the programs included."""
    latency_verified: bool
    """Whether the latency was replayed on this plan."""
    latency: str
    """The same in words."""
    replicas: tuple[PlannedReplicas, ...]
    """By offer, in the file's order."""
    sizes: tuple[PlannedSize, ...]
    """Row by row of the workload's grid."""
    single_type: tuple[SingleTypeFleet, ...]
    """What each offer alone would cost, in the file's order."""

    @property
    def cheapest_single_type(self) -> SingleTypeFleet | None:
        """The cheapest fleet of one offer, or nothing where no offer can do it alone."""
        fleets = [fleet for fleet in self.single_type if fleet.cost_usd_per_hour is not None]
        return min(fleets, key=lambda fleet: fleet.cost_usd_per_hour or 0.0, default=None)
