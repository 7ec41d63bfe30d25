"""Synthetic traces: requests of a named mix, and arrivals of a chosen burstiness."""

import math
from random import Random

from planner.errors import WorkloadError
from planner.workloads.mixes import MIXES
from planner.workloads.trace import Trace

MOST_REQUESTS = 10_000_000
"""Largest expected number of requests that is drawn; it takes about a minute and 1 GB."""


def synthetic_trace(
    mix_name: str,
    *,
    requests_per_second: float,
    duration_seconds: float,
    generator: Random,
    gap_scv: float = 1.0,
) -> Trace:
    """Return a trace of a mix, its first request at 0 seconds.

    The gaps between arrivals are independent and gamma distributed: a Poisson process where
    `gap_scv` is 1, bursts above, regular arrivals at 0.

    Args:
        mix_name: A key of `MIXES`.
        requests_per_second: Mean rate, above 0.
        duration_seconds: No request arrives later, above 0.
        generator: Source of all chance; the same state gives the same trace.
        gap_scv: Squared coefficient of variation of the gaps: variance ÷ squared mean, 0-1000.

    Raises:
        WorkloadError: If the mix is unknown, or a number is not finite, out of its range or asks
            for more than `MOST_REQUESTS`.
    """
    if mix_name not in MIXES:
        raise WorkloadError(f"there is no mix {mix_name!r}; use one of: {', '.join(MIXES)}")
    _check_positive("rate", requests_per_second, "requests/s")
    _check_positive("duration", duration_seconds, "s")
    if not 0 <= gap_scv <= 1000:
        raise WorkloadError(f"gap_scv is {gap_scv}; give a number from 0 to 1000, 1 for Poisson")
    expected = requests_per_second * duration_seconds
    if expected > MOST_REQUESTS:
        raise WorkloadError(
            f"{requests_per_second:g} requests/s for {duration_seconds:g} s are {expected:.3g} "
            f"requests, above {MOST_REQUESTS:,}; shorten the duration"
        )
    arrivals = _arrivals(requests_per_second, duration_seconds, gap_scv, generator)
    inputs, outputs = MIXES[mix_name].draw(len(arrivals), generator)
    return Trace(tuple(arrivals), tuple(inputs), tuple(outputs))


def _arrivals(
    requests_per_second: float, duration_seconds: float, gap_scv: float, generator: Random
) -> list[float]:
    arrivals: list[float] = []
    at_seconds = 0.0
    while at_seconds <= duration_seconds:
        arrivals.append(at_seconds)
        if gap_scv == 0:
            at_seconds = len(arrivals) / requests_per_second
        else:
            at_seconds += generator.gammavariate(1 / gap_scv, gap_scv / requests_per_second)
    return arrivals


def _check_positive(name: str, value: float, unit: str) -> None:
    if not 0 < value < math.inf:
        raise WorkloadError(f"{name} is {value} {unit}; give a finite number above 0")
