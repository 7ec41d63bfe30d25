"""What a fleet of one offer alone would take: the usual alternative to a mix."""

from dataclasses import dataclass

from planner.fleet_problem import FleetProblem


@dataclass(frozen=True, slots=True)
class SingleType:
    """A fleet of one offer."""

    replicas: int | None
    """Replicas it takes, whatever the cap; nothing: impossible at any number."""
    cost_usd_per_hour: float | None
    """Their price; nothing: not to be had."""
    obstacle: str
    """Why it is not to be had; empty where it is."""


def single_type(problem: FleetProblem, offer: int) -> SingleType:
    """Return what serving every size with the offer alone takes."""
    for s, size in enumerate(problem.sizes):
        if not problem.can_serve(s, offer):
            return SingleType(None, None, f"cannot serve {size}")
    replicas = problem.needed_replicas(offer)
    cap = problem.offers[offer].max_replicas
    if cap is not None and replicas > cap:
        return SingleType(replicas, None, f"max_replicas is {cap}")
    return SingleType(replicas, replicas * problem.offers[offer].price_usd_per_hour, "")
