"""The statistics a latency target may name, and how sure a simulation is of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE_FRACTION = 0.95
"""Of the intervals."""

FEWEST_SAMPLES = 10
"""Replications or batches an interval may rest on."""

_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

STATISTICS = ("mean", *_PERCENTILES)
"""Names of the statistics."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the half-width of its 95 % confidence interval."""

    value: float
    half_width: float


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Return every statistic of the values; percentiles interpolate between neighbours.

    Raises:
        ValueError: If there is no value.
    """
    if not values:
        raise ValueError("no request to take a statistic of; give a longer trace")
    ordered = sorted(values)
    summary = {"mean": math.fsum(ordered) / len(ordered)}
    for name, fraction in _PERCENTILES.items():
        rank = fraction * (len(ordered) - 1)
        below = math.floor(rank)
        above = min(below + 1, len(ordered) - 1)
        summary[name] = ordered[below] + (rank - below) * (ordered[above] - ordered[below])
    return summary


def half_width(samples: Sequence[float]) -> float:
    """Return the half-width of the interval for the mean of independent, roughly normal samples.

    Raises:
        ValueError: If there are fewer than ten.
    """
    if len(samples) < FEWEST_SAMPLES:
        raise ValueError(f"{len(samples)} samples; an interval takes at least {FEWEST_SAMPLES}")
    quantile = student_quantile(len(samples) - 1)
    return quantile * statistics.stdev(samples) / math.sqrt(len(samples))


def student_quantile(degrees: int) -> float:
    """Return the two-sided 95 % quantile of Student's t, to 1e-3 from nine degrees of freedom.

    Source: Abramowitz and Stegun, 26.7.5: the expansion about the normal quantile, four terms.
    """
    z = statistics.NormalDist().inv_cdf(0.5 + CONFIDENCE_FRACTION / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))
