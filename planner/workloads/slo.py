"""A latency target, and whether measured latencies meet it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import model_validator

from planner.config import StrictModel
from planner.units import Positive
from planner.workloads.quantiles import quantile

Statistic = Literal["mean", "p50", "p90", "p95", "p99"]


class Slo(StrictModel):
    """Limits on the time to the first token (TTFT), on the time per further one (TPOT), or both."""

    ttft_seconds: Positive | None = None
    """Limit of the TTFT, from a request's arrival; nothing: no limit."""
    ttft_statistic: Statistic = "p95"
    """What of all requests' TTFT the limit holds for."""
    tpot_seconds: Positive | None = None
    """Limit of the TPOT; nothing: no limit."""
    tpot_statistic: Statistic = "p95"
    """What of all TPOT the limit holds for."""
    tpot_per: Literal["request", "token"] = "request"
    """`request`: one value a request, its mean time per token after the first. `token`: one value
    a token, its own wait; long answers weigh more and single stalls are seen."""

    @model_validator(mode="after")
    def _has_a_target(self) -> Self:
        if self.ttft_seconds is None and self.tpot_seconds is None:
            raise ValueError("sets no limit; give ttft_seconds, tpot_seconds or both")
        return self


@dataclass(frozen=True, slots=True)
class Latencies:
    """Measured or simulated seconds, in any order; leave empty what is not known."""

    ttft_seconds: Sequence[float] = ()
    """One value a request."""
    tpot_per_request_seconds: Sequence[float] = ()
    """One value a request of at least two output tokens."""
    tpot_per_token_seconds: Sequence[float] = ()
    """One value an output token after the first, of all requests together."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target against what was measured."""

    target: str
    """In words, such as `TTFT p95` or `TPOT p90 per token`."""
    value_seconds: float
    limit_seconds: float

    @property
    def is_met(self) -> bool:
        """Tell whether the value is at most the limit."""
        return self.value_seconds <= self.limit_seconds

    def __str__(self) -> str:
        outcome = "met" if self.is_met else "missed"
        return (
            f"{self.target} {self.value_seconds:.4g} s, limit {self.limit_seconds:.4g} s: {outcome}"
        )


def evaluate(slo: Slo, latencies: Latencies) -> tuple[Verdict, ...]:
    """Return a verdict for each limit of `slo`, TTFT first.

    Raises:
        ValueError: If the latencies of a limit are missing, or one of them is negative or not
            finite.
    """
    verdicts = []
    if slo.ttft_seconds is not None:
        value = statistic_of("TTFT", latencies.ttft_seconds, slo.ttft_statistic)
        verdicts.append(Verdict(f"TTFT {slo.ttft_statistic}", value, slo.ttft_seconds))
    if slo.tpot_seconds is not None:
        name = f"TPOT {slo.tpot_statistic} per {slo.tpot_per}"
        is_per_token = slo.tpot_per == "token"
        values = (
            latencies.tpot_per_token_seconds if is_per_token else latencies.tpot_per_request_seconds
        )
        value = statistic_of(f"TPOT per {slo.tpot_per}", values, slo.tpot_statistic)
        verdicts.append(Verdict(name, value, slo.tpot_seconds))
    return tuple(verdicts)


def statistic_of(name: str, values: Sequence[float], statistic: Statistic) -> float:
    """Return the mean or a percentile of seconds; `name` says in errors what they are.

    Raises:
        ValueError: If there are none, or one of them is negative or not finite.
    """
    if len(values) == 0:
        raise ValueError(f"no {name} was measured; a limit on it cannot be judged")
    for value in values:
        if not 0 <= value < math.inf:
            raise ValueError(f"a measured {name} is {value} s; give finite times from 0")
    if statistic == "mean":
        return math.fsum(values) / len(values)
    return quantile(sorted(values), int(statistic[1:]) / 100)
