"""What the measured cost of a draft step says about the speed-up a draft can give."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from planner.config import StrictModel


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{bounds[0]} is above {bounds[1]}; give the lowest first")
    return bounds


Positive = Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
"""The lowest and the highest of some positive values."""


class StepCosts(StrictModel):
    """Seconds of single steps of target and draft, measured on one machine."""

    target_seconds_by_rows: dict[int, Positive]
    """Time of one target step, by the tokens it takes in at once; 1 must be among them."""
    draft_seconds_by_draft_tokens: dict[int, Positive]
    """Time of one draft step at one token, by the drafted tokens of its round: the first step of a
    round costs more than those behind it, which find the draft's weights in the caches."""
    draft_fraction_range_by_draft_tokens: dict[int, Range]
    """Lowest and highest cost of that step, in target steps at one row, over repeated runs."""
    hardware: str
    """Where it was measured: processor, threads, number format."""

    @model_validator(mode="after")
    def _holds_every_round(self) -> Self:
        """Check that each round's draft steps and target step are there."""
        if 1 not in self.target_seconds_by_rows:
            raise ValueError("target_seconds_by_rows has no time for 1 row; measure again")
        rounds = {rows - 1 for rows in self.target_seconds_by_rows if rows > 1}
        for name in ("draft_seconds_by_draft_tokens", "draft_fraction_range_by_draft_tokens"):
            drafted = set(getattr(self, name))
            if drafted != rounds:
                raise ValueError(
                    f"{name} is for {sorted(drafted)} drafted tokens, target_seconds_by_rows for "
                    f"{sorted(rounds)}; measure again"
                )
        return self

    @property
    def draft_tokens(self) -> list[int]:
        """The measured numbers of drafted tokens a round, rising."""
        return sorted(self.draft_seconds_by_draft_tokens)

    def draft_fraction(self, draft_tokens: int) -> float:
        """Return the cost of one draft step of such rounds in target steps at one row."""
        seconds = self.draft_seconds_by_draft_tokens[draft_tokens]
        return seconds / self.target_seconds_by_rows[1]

    def target_fraction(self, rows: int) -> float:
        """Return the cost of one target step at so many rows in target steps at one row."""
        return self.target_seconds_by_rows[rows] / self.target_seconds_by_rows[1]

    def speed_up(self, *, draft_tokens: int, acceptance_fraction: float) -> float:
        """Return generated tokens a second with a draft over those without.

        speed-up = tau / (c(k + 1) / c(1) + k d(k)), with k drafted tokens a round, c(M) the
        target's time at M rows, d(k) the draft's time a step in units of c(1), and tau the expected
        tokens of a round.

        Args:
            draft_tokens: k, a measured one, or 0 for no draft.
            acceptance_fraction: Chance that a drafted token is the target's, in [0, 1].

        Source: Leviathan, Kalman and Matias, "Fast Inference from Transformers via Speculative
        Decoding" (2023), theorem 3.8, with verification at k + 1 rows at its measured price.
        """
        if draft_tokens == 0:
            return 1.0
        tokens = expected_tokens(draft_tokens=draft_tokens, acceptance_fraction=acceptance_fraction)
        drafting = draft_tokens * self.draft_fraction(draft_tokens)
        return tokens / (self.target_fraction(draft_tokens + 1) + drafting)


def expected_tokens(*, draft_tokens: int, acceptance_fraction: float) -> float:
    """Return the expected tokens of a round: 1 + a + ... + a^k for k drafted tokens."""
    return sum(acceptance_fraction**position for position in range(draft_tokens + 1))


Measure = Callable[[Path, Path], StepCosts]
"""Measures the step costs of the models in a target folder and a draft folder."""
