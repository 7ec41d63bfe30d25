"""How sure a simulation is of a statistic."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE_FRACTION = 0.95
"""Of the intervals."""

FEWEST_SAMPLES = 10
"""Replications or batches an interval may rest on."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the half-width of its 95 % confidence interval."""

    value: float
    half_width: float | None
    """Nothing where fewer than ten samples have a value: the interval is not known."""


def half_width(samples: Sequence[float]) -> float | None:
    """Return the half-width of the interval for the mean of independent, roughly normal samples.

    Nothing where there are fewer than ten.
    """
    if len(samples) < FEWEST_SAMPLES:
        return None
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
