"""What replaying a trace on a plan found: part of the plan's document."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel
from planner.units import Count, Name, Number

Amount = Annotated[Number, Field(ge=0)]

LEAST_REPLAYED_SECONDS = 120.0
"""A shorter replay shows neither a settled fleet nor whether a queue grows: it verifies nothing."""

FEWEST_RECORDED = 200
"""Requests of a model's recorded trace below which its replay says nothing: ten for each of the
twenty stretches that it is cut into."""


class VerifiedTarget(StrictModel):
    """One latency limit against its simulated value."""

    model: Name
    """Served model."""
    target: str
    """In words, such as `TTFT p95` or `TPOT p90 per token`."""
    limit_seconds: Amount
    """What was promised."""
    value_seconds: Amount
    """The target's statistic over the requests of all samples together."""
    half_width_seconds: Amount | None
    """Half of the 95 % confidence interval; null: not known."""

    @property
    def is_met(self) -> bool:
        """Tell whether the value is at most the limit."""
        return self.value_seconds <= self.limit_seconds

    @property
    def is_certain(self) -> bool:
        """Tell whether the interval is known and lies on one side of the limit."""
        width = self.half_width_seconds
        return width is not None and abs(self.value_seconds - self.limit_seconds) > width

    @property
    def in_words(self) -> str:
        """The outcome in a word, and whether the limit lies within the interval."""
        word = "met" if self.is_met else "missed"
        if self.is_certain or self.half_width_seconds is None:
            return word
        return f"{word}, the limit within ± 95 %"


class VerificationReport(StrictModel):
    """How the plan held up when requests were replayed on it."""

    status: Literal["met", "best attained"]
    """`best attained`: some target is missed and tightening further did not help."""
    replayed: str
    """What was replayed, such as a trace's name, rate and length."""
    num_requests: Count
    """Requests of one replication."""
    replayed_seconds: Amount
    """How long the requests of one replication arrive, of the model whose end first."""
    num_samples: Count
    """Independent replications, or stretches of one trace with requests, behind each interval; of
    the model that has the fewest."""
    num_rounds: Count
    """Programs solved: 1 where the first plan held."""
    cost_before_usd_per_hour: Amount
    """Cost of the first plan, before any tightening."""
    savings: tuple[str, ...] = ()
    """Replicas that simulation found superfluous and the plan gave up."""
    targets: tuple[VerifiedTarget, ...]
    """Every limit of every model that had requests."""
    models_without_requests: tuple[Name, ...] = ()
    """Models that the replay says nothing about."""
    models_with_few_requests: dict[Name, Count] = Field(default_factory=dict)
    """Models whose recorded requests are too few to say anything: how many."""
    models_drawn_from_grid: tuple[Name, ...] = ()
    """Models whose requests were drawn from the plan's grid of sizes, in place of recorded ones."""

    @property
    def is_verified(self) -> bool:
        """Tell whether every model's targets were met, over a replay that is long enough to tell."""
        is_long = self.replayed_seconds >= LEAST_REPLAYED_SECONDS
        unheard = self.models_without_requests or self.models_with_few_requests
        return self.status == "met" and is_long and not unheard

    @property
    def in_words(self) -> str:
        """The outcome in one line."""
        if self.models_with_few_requests:
            return f"latency not verified: {too_few_in_words(self.models_with_few_requests)}"
        missed = [row for row in self.targets if not row.is_met]
        if not missed and self.models_without_requests:
            return (
                f"latency not verified: {' and '.join(self.models_without_requests)} had no "
                "requests; replay some of every model"
            )
        if not missed and not self.is_verified:
            return (
                f"latency not verified: every target met, but the replay lasts "
                f"{self.replayed_seconds:.3g} s, under the {LEAST_REPLAYED_SECONDS:g} s that show "
                "whether a queue grows; replay more requests"
            )
        if not missed:
            return f"latency verified{self._stand_in}: every target met over {self.num_samples} samples"
        worst = max(missed, key=lambda row: row.value_seconds / row.limit_seconds)
        return (
            f"latency target missed{self._stand_in}: best attained {worst.target} of {worst.model} is "
            f"{worst.value_seconds:.4g} s, the limit {worst.limit_seconds:.4g} s"
        )

    @property
    def _stand_in(self) -> str:
        if not self.models_drawn_from_grid:
            return ""
        return " on requests drawn from the plan's grid of sizes (--trace replays recorded ones)"


def too_few_in_words(num_requests_by_model: Mapping[str, int]) -> str:
    """Return which models have too few requests to say anything, in one line."""
    counts = [f"{count} requests of {model}" for model, count in num_requests_by_model.items()]
    return f"{' and '.join(counts)} are too few, at least {FEWEST_RECORDED} are needed; replay more"
