"""Quantiles of measured values, one definition for traces and latencies."""

from collections.abc import Sequence


def quantile(rising: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of the values lie.

    Linear between the two nearest values, as numpy and most load generators report percentiles.

    Args:
        rising: Finite values in rising order, at least one.
        fraction: From 0, the least value, to 1, the greatest.

    Raises:
        ValueError: If there are no values or the fraction lies outside 0-1.
    """
    if not rising:
        raise ValueError("no values, so no quantile; give at least one")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction}, not from 0 to 1; write p95 as 0.95")
    position = fraction * (len(rising) - 1)
    below = int(position)
    above = min(below + 1, len(rising) - 1)
    return rising[below] + (position - below) * (rising[above] - rising[below])
