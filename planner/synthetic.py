"""Synthetic traces: named mixes of request sizes, and arrivals of a chosen burstiness.

Input and output of a request are drawn independently. In the Azure conversation trace of 2023 their
rank correlation is 0.07.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from random import Random

from planner.errors import WorkloadError
from planner.trace import Trace

MOST_REQUESTS = 10_000_000
"""Largest expected number of requests that is drawn; it takes about a minute and 1 GB."""


@dataclass(frozen=True, slots=True)
class LengthLaw:
    """Token counts known by some of their quantiles, log-linear in between."""

    fractions: tuple[float, ...]
    """Rising from 0 to 1."""
    tokens: tuple[int, ...]
    """The quantile at each fraction, never falling, at least 1."""

    def tokens_at(self, fraction: float) -> int:
        """Return the quantile at a fraction from 0 up to 1, as a whole number of tokens."""
        above = min(bisect_right(self.fractions, fraction), len(self.fractions) - 1)
        start, end = self.fractions[above - 1], self.fractions[above]
        low, high = math.log(self.tokens[above - 1]), math.log(self.tokens[above])
        return round(math.exp(low + (high - low) * (fraction - start) / (end - start)))


@dataclass(frozen=True, slots=True)
class Mix:
    """A kind of traffic: how long its inputs and outputs are."""

    input_tokens: LengthLaw
    output_tokens: LengthLaw
    source: str
    """Where the quantiles are from."""


_MEASURED = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)

MIXES = {
    "chat": Mix(
        LengthLaw(_MEASURED, (2, 29, 181, 207, 396, 1020, 1189, 2735, 4083, 4142, 6179, 14_050)),
        LengthLaw(_MEASURED, (7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 954, 1000)),
        source="quantiles of the Azure LLM inference conversation trace of 2023 (CC-BY-4.0)",
    ),
    # The published 50th, 90th and 99th percentile; nothing is known above. The least value is the
    # one at which the mean comes out as published (2047.8 in, 27.9 out) within 2 %.
    "code": Mix(
        LengthLaw((0, 0.5, 0.9, 0.99, 1), (75, 1469, 5194, 7436, 7436)),
        LengthLaw((0, 0.5, 0.9, 0.99, 1), (1, 13, 55, 252, 252)),
        source="percentiles of the Azure LLM inference code trace of 2023 (CC-BY-4.0)",
    ),
    "documents": Mix(
        LengthLaw((0, 0.5, 0.9, 0.99, 1), (2000, 8000, 24_000, 60_000, 120_000)),
        LengthLaw((0, 0.5, 0.9, 0.99, 1), (20, 200, 500, 1000, 2000)),
        source="invented: summaries of and questions about long documents",
    ),
}
"""Every mix by name."""


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
    mix = MIXES[mix_name]
    return Trace(
        arrival_seconds=tuple(arrivals),
        input_tokens=tuple(mix.input_tokens.tokens_at(generator.random()) for _ in arrivals),
        output_tokens=tuple(mix.output_tokens.tokens_at(generator.random()) for _ in arrivals),
    )


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
