"""What a trace looks like in a few numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from planner.workloads.quantiles import quantile
from planner.workloads.trace import Trace

_MINUTE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Token counts in a few numbers."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: int


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """Requests, time and sizes."""

    num_requests: int
    duration_seconds: float
    rate_requests_per_second: float | None
    """Nothing where all requests arrive at once."""
    gap_scv: float | None
    """Burstiness: squared coefficient of variation of the gaps between arrivals, 1 for Poisson;
    nothing where there are no two gaps or no time passes."""
    busiest_minute_requests_per_second: float | None
    """Rate of the busiest whole minute, counted from the first arrival; nothing where the trace
    holds no two."""
    input_tokens: LengthSummary
    output_tokens: LengthSummary


def summary_of(trace: Trace) -> TraceSummary:
    """Return the summary of a trace."""
    has_time = trace.duration_seconds > 0
    return TraceSummary(
        num_requests=trace.num_requests,
        duration_seconds=trace.duration_seconds,
        rate_requests_per_second=trace.rate_requests_per_second if has_time else None,
        gap_scv=_gap_scv(trace.arrival_seconds) if has_time else None,
        busiest_minute_requests_per_second=_busiest_minute(trace.arrival_seconds),
        input_tokens=_lengths(trace.input_tokens),
        output_tokens=_lengths(trace.output_tokens),
    )


def _gap_scv(arrivals: Sequence[float]) -> float | None:
    gaps = [after - before for before, after in pairwise(arrivals)]
    if len(gaps) < 2:
        return None
    mean = fmean(gaps)
    return fmean((gap / mean - 1) ** 2 for gap in gaps)


def _busiest_minute(arrivals: Sequence[float]) -> float | None:
    num_minutes = int(arrivals[-1] // _MINUTE_SECONDS)
    if num_minutes < 2:
        return None
    counts = Counter(int(at // _MINUTE_SECONDS) for at in arrivals)
    return max(counts[minute] for minute in range(num_minutes)) / _MINUTE_SECONDS


def _lengths(tokens: Sequence[int]) -> LengthSummary:
    rising = sorted(tokens)
    p50, p90, p95, p99 = (quantile(rising, fraction) for fraction in (0.5, 0.9, 0.95, 0.99))
    return LengthSummary(fmean(rising), p50, p90, p95, p99, rising[-1])
