"""Each offer's part of a model's requests, all input sizes together."""

import math
from collections.abc import Mapping

from planner.fleet.fleet_plan import WEIGHT_SUM
from planner.render.fleet import Pool, RenderedFleet


def offer_rates(fleet: RenderedFleet, model: str) -> dict[str, float]:
    """Return the planned requests a second of each offer that serves `model`."""
    rates = {pool.row.offer: 0.0 for pool in fleet.pools_of(model)}
    for row in fleet.weights_of(model):
        for offer, share in row.shares_fraction.items():
            rates[offer] += row.rate_requests_per_second * share
    return rates


def offer_weights(fleet: RenderedFleet, model: str) -> dict[str, int]:
    """Return integers in the offers' proportion, by largest remainder, summing to 1000."""
    rates = offer_rates(fleet, model)
    total = sum(rates.values())
    if not total:
        return dict.fromkeys(rates, 1)
    exact = {offer: WEIGHT_SUM * rate / total for offer, rate in rates.items()}
    return _rounded(exact)


def full_rate(fleet: RenderedFleet, pool: Pool) -> float | None:
    """Return the requests a second one replica takes at its limit, of the mix planned for it.

    None where nothing is planned for it.
    """
    rate = offer_rates(fleet, pool.row.model)[pool.row.offer]
    if not rate or not pool.row.load_replicas:
        return None
    return rate / pool.row.load_replicas * pool.row.utilisation_limit_fraction


def _rounded(exact: Mapping[str, float]) -> dict[str, int]:
    weights = {offer: math.floor(value) for offer, value in exact.items()}
    by_remainder = sorted(exact, key=lambda offer: weights[offer] - exact[offer])
    for offer in by_remainder[: WEIGHT_SUM - sum(weights.values())]:
        weights[offer] += 1
    return weights
