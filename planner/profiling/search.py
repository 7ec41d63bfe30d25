"""Which rate to offer next, from what the runs so far have shown."""

import math
from collections.abc import Sequence

from planner.profiling.profile import Run
from planner.profiling.profile_reading import is_saturated

FIRST_LOAD_FRACTION = 0.5
"""First rate searched, as a part of what one request after another would give."""
BISECTIONS = 2
"""Runs between the last rate that was held and the first that was not: ends within 19 %."""
_MOST_RUNS = 24


def next_listed_rate(rates: Sequence[float], runs: Sequence[Run]) -> float | None:
    """Return the next of rising rates; nothing: all were offered, or the last saturated."""
    if len(runs) == len(rates) or (runs and is_saturated(runs[-1])):
        return None
    return rates[len(runs)]


def next_searched_rate(lone_seconds: float, runs: Sequence[Run]) -> float | None:
    """Return the next rate of a search for saturation; nothing: it is found.

    Doubles from `FIRST_LOAD_FRACTION / lone_seconds` until a rate is not held, then halves the factor
    between the highest rate held and the lowest that was not. Where the first is not held the search
    goes down instead. A run with failures holds no rate: an endpoint that refuses keeps pace easily.

    Args:
        lone_seconds: How long a request takes that has the endpoint to itself.
        runs: So far, in the order of running.
    """
    if not runs:
        return FIRST_LOAD_FRACTION / lone_seconds
    too_high = [_offered(run) for run in runs if is_saturated(run) or run.num_failures]
    if not too_high:
        return 2 * _offered(runs[-1]) if len(runs) < _MOST_RUNS else None
    lowest = min(too_high)
    held = [_offered(run) for run in runs if _offered(run) < lowest]
    if not held:
        return lowest / 2 if len(runs) < _MOST_RUNS else None
    ratio = lowest / max(held)
    return math.sqrt(lowest * max(held)) if ratio > 2 ** (1.5 / 2**BISECTIONS) else None


def _offered(run: Run) -> float:
    assert run.offered_requests_per_second is not None, "a search offers rates"
    return run.offered_requests_per_second
