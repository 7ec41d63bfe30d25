"""Settings of what happens when a replica fails: retries, circuit breaker, hedging."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.units import NonNegative, Positive, Tokens

Share = Annotated[NonNegative, Field(le=1)]


class RetryConfig(StrictModel):
    """What happens before the first byte has gone to the client; afterwards nothing is retried."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Attempts at one request on all replicas together, the first included. A replica is asked a
    second time only where none is left that was not, and a check has found it well meanwhile."""
    deadline_seconds: Positive = 600.0
    """From the first attempt to the first byte of an answer, all attempts and waits together."""
    wait_seconds: NonNegative = 2.0
    """How long a request waits for a replica to come back when all of them fail; 0: not at all."""
    busy_wait_seconds: NonNegative = 0.0
    """How long a request waits for a replica that is busy (429) when all of them are. By default
    it is answered 429 at once, with the shortest `Retry-After`."""
    max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    """Requests that may wait at once; the others are answered at once."""
    max_busy_seconds: NonNegative = 10.0
    """Longest time a replica is left alone after a 429, whatever its `Retry-After` asks; 0: it is
    asked again by the next request, as suits replicas that limit each client for itself."""
    budget_fraction: Share = 0.5
    """Retries and hedges allowed, as a share of the requests of about the last ten seconds: half,
    so that one of two replicas may die."""
    budget_floor_per_second: NonNegative = 20.0
    """Retries and hedges allowed a second besides, so that a quiet router may retry too."""


class BreakerConfig(StrictModel):
    """When a replica gets no more requests though its checks pass, and when it is tried again."""

    consecutive_failures: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Failed attempts in a row that open the breaker."""
    failure_fraction: Annotated[Positive, Field(le=1)] = 0.5
    """Share of the attempts of the window that opens it, once there are `min_outcomes` of them."""
    min_outcomes: Annotated[int, Field(ge=1, le=1000)] = 20
    """Ended attempts before the share counts; the window holds ten times as many at the most."""
    window_seconds: Positive = 30.0
    """How far back the share looks."""
    open_seconds: Positive = 1.0
    """How long it stays open the first time; then one request is let through as a probe. A probe that
    fails costs a retry; a replica kept out after it is well costs the others its load."""
    max_open_seconds: Positive = 30.0
    """Each probe that fails doubles the time, up to this one."""

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.max_open_seconds < self.open_seconds:
            raise ValueError(
                f"max_open_seconds: {self.max_open_seconds:g} is below open_seconds "
                f"({self.open_seconds:g}); raise it"
            )
        return self


class HedgingConfig(StrictModel):
    """A second attempt at a short request whose first one is slow; the first answer is used.

    It costs work twice, and is paid from the budget of the retries.
    """

    after_seconds: Positive
    """Without a first byte for so long a second replica is asked; take the 95th percentile of the
    time to the first byte."""
    max_prompt_tokens: Tokens = 512
    """Longer prompts are not hedged; estimated as a quarter of the body's bytes."""
    max_tokens: Tokens = 256
    """Requests that allow a longer answer, or do not say, are not hedged."""
