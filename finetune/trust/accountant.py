"""What differential privacy a number of rounds of noisy sums has cost.

Neighbouring runs differ in one whole client (user level). A client takes part in a round with a
probability of its own, or always; amplification by sampling holds only for independent draws.
"""

import math

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PrivacyBudgetError

ORDERS = np.concatenate(
    [1 + np.geomspace(0.01, 10, 120), np.geomspace(11.5, 512, 60)], dtype=np.float64
)
"""Renyi orders among which the best is taken; every single one gives a valid bound."""

_POINTS_PER_DEVIATION = 16
_DEVIATIONS = 12


def epsilon_spent(
    *, noise_multiplier: float, num_rounds: int, delta: float, sampling_probability: float = 1.0
) -> float:
    """Return epsilon of the rounds together, at `delta`.

    Args:
        noise_multiplier: Deviation of the noise on the sum, in clipping norms; z in the papers.
        num_rounds: Noisy sums published.
        delta: Probability with which epsilon may fail; below one over the number of clients.
        sampling_probability: Of each client, independently, in each round; 1 if all take part.

    Raises:
        ValueError: If an argument is out of range.

    Source: composition by adding Renyi divergences (Mironov 2017, arXiv 1702.07476, proposition
    1); epsilon from them by Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), proposition 12.
    """
    if not (noise_multiplier > 0 and 0 < delta < 1 and num_rounds >= 0):
        raise ValueError(
            f"noise_multiplier {noise_multiplier}, delta {delta} and {num_rounds} rounds must be "
            "positive, delta below 1"
        )
    if not 0 < sampling_probability <= 1:
        raise ValueError(f"sampling_probability {sampling_probability} is not in (0, 1]")
    if num_rounds == 0:
        return 0.0
    divergences = num_rounds * renyi_divergences(
        ORDERS, noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
    )
    epsilons = (
        divergences + np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    )
    return max(0.0, float(epsilons.min()))


def check_budget(
    *, noise_multiplier: float, num_rounds: int, delta: float, most_epsilon: float
) -> float:
    """Return epsilon after `num_rounds`, of which the last is still to come.

    Raises:
        PrivacyBudgetError: If that is more than `most_epsilon`.
    """
    epsilon = epsilon_spent(noise_multiplier=noise_multiplier, num_rounds=num_rounds, delta=delta)
    if epsilon > most_epsilon:
        raise PrivacyBudgetError(
            f"round {num_rounds} would bring epsilon to {epsilon:.3g} at delta {delta:g}, above "
            f"most_epsilon {most_epsilon:g}; the checkpoint holds round {num_rounds - 1}; start "
            "anew with a larger noise_multiplier or fewer rounds"
        )
    return epsilon


def renyi_divergences(
    orders: NDArray[np.float64], *, noise_multiplier: float, sampling_probability: float
) -> NDArray[np.float64]:
    """Return the Renyi divergence of one round at each order.

    Without sampling it is order / (2 z^2). With sampling it is log A / (order - 1), where A is the
    expectation of ((1 - q) + q exp((2 x - 1) / (2 z^2)))^order over x from N(0, z^2); it is taken
    by the trapezoid rule, whose error for so smooth an integrand is far below rounding, and which
    unlike the series of binomials has no trouble with orders that are not whole.

    Source: Mironov, Talwar and Zhang 2019 (arXiv 1908.10530), sections 3.1 and 3.3.
    """
    if sampling_probability == 1:
        return orders / (2 * noise_multiplier**2)
    return np.array(
        [
            _log_moment(order, noise_multiplier, sampling_probability) / (order - 1)
            for order in orders
        ]
    )


def _log_moment(order: float, deviation: float, probability: float) -> float:
    """Return log A of the sampled Gaussian; the integrand has its mass between 0 and `order`."""
    step = min(1.0, deviation) * deviation / _POINTS_PER_DEVIATION
    margin = _DEVIATIONS * deviation
    points = np.arange(-margin, order + margin, step)
    log_ratio = np.logaddexp(
        math.log1p(-probability),
        math.log(probability) + (2 * points - 1) / (2 * deviation**2),
    )
    exponents = order * log_ratio - np.square(points) / (2 * deviation**2)
    largest = float(exponents.max())
    total = float(np.exp(exponents - largest).sum())
    return largest + math.log(total * step / (deviation * math.sqrt(2 * math.pi)))
