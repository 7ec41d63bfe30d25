"""The numbers of a fleet problem, without files: what the solvers and their oracles read."""

import math
from dataclasses import dataclass

from planner.fleet_config import FleetConfig
from planner.workload import RequestSize

ROUNDING = 1e-9
"""Relative excess over a whole number of replicas that is floating-point noise, not load."""


@dataclass(frozen=True, slots=True)
class OfferColumn:
    """One offer as the program sees it."""

    name: str
    price_usd_per_hour: float
    utilisation_limit_fraction: float
    max_replicas: int | None
    throughputs_requests_per_second: tuple[float, ...]
    """By size; 0 where the offer cannot serve it."""


@dataclass(frozen=True, slots=True)
class FleetProblem:
    """Sizes that have requests, and offers to serve them."""

    sizes: tuple[RequestSize, ...]
    offers: tuple[OfferColumn, ...]

    def can_serve(self, size: int, offer: int) -> bool:
        """Tell whether a replica of the offer serves requests of the size at all."""
        return self.offers[offer].throughputs_requests_per_second[size] > 0

    def load_replicas(self, size: int, offer: int) -> float:
        """Return how many replicas at full load the size's whole rate occupies on the offer.

        Raises:
            ValueError: If the offer cannot serve the size.
        """
        if not self.can_serve(size, offer):
            raise ValueError(f"{self.offers[offer].name} cannot serve {self.sizes[size]}")
        throughput = self.offers[offer].throughputs_requests_per_second[size]
        return self.sizes[size].rate_requests_per_second / throughput

    def needed_for(self, size: int, offer: int) -> float:
        """Return how many replicas, loaded to the offer's limit, serve the size's whole rate.

        Raises:
            ValueError: If the offer cannot serve the size.
        """
        return self.load_replicas(size, offer) / self.offers[offer].utilisation_limit_fraction

    def needed_replicas(self, offer: int) -> int:
        """Return how many replicas serve, within the limit, all sizes that the offer can."""
        sizes = (size for size in range(len(self.sizes)) if self.can_serve(size, offer))
        return ceil_replicas(sum(self.needed_for(size, offer) for size in sizes))

    def most_replicas(self, offer: int) -> int:
        """Return a count that no plan needs to exceed: the offer's cap or the whole load's need."""
        # One more than needed, so that no solver's tolerance makes the last unit of load infeasible.
        needed = self.needed_replicas(offer) + 1
        cap = self.offers[offer].max_replicas
        return needed if cap is None else min(cap, needed)


def ceil_replicas(replicas: float) -> int:
    """Return the whole number of replicas that carries this many at full load, at least 1.

    An excess of one part in 10^9 is noise: 4.000000001 replicas are 4; 3.9999 are 4, never 3.
    """
    return max(1, math.ceil(replicas * (1 - ROUNDING)))


def problem_of(config: FleetConfig) -> FleetProblem:
    """Return the problem a file states; sizes without requests take no part in it."""
    cells = config.workload.sizes()
    active = [index for index, cell in enumerate(cells) if cell.rate_requests_per_second > 0]
    columns = []
    for offer in config.offers:
        flat = [rate for row in offer.throughput_requests_per_second for rate in row]
        column = OfferColumn(
            name=offer.name,
            price_usd_per_hour=offer.price_usd_per_hour,
            utilisation_limit_fraction=config.limit_fraction(offer),
            max_replicas=offer.max_replicas,
            throughputs_requests_per_second=tuple(flat[index] for index in active),
        )
        columns.append(column)
    return FleetProblem(sizes=tuple(cells[index] for index in active), offers=tuple(columns))
