"""What the measured cost of a draft step says about the speed-up a draft can give."""

from collections.abc import Callable
from pathlib import Path

from pydantic import Field, field_validator

from planner.config import StrictModel


class StepCosts(StrictModel):
    """Seconds of single steps of target and draft, measured on one machine."""

    target_seconds_by_rows: dict[int, float]
    """Time of one target step, by the tokens it takes in at once; 1 must be among them."""
    draft_seconds: float = Field(gt=0)
    """Time of one draft step at one token, a round's mean."""
    draft_fraction_range: tuple[float, float]
    """Lowest and highest cost of a draft step, in target steps at one row, over repeated runs."""
    hardware: str
    """Where it was measured: processor, threads, number format."""

    @field_validator("target_seconds_by_rows")
    @classmethod
    def _holds_one_row(cls, seconds_by_rows: dict[int, float]) -> dict[int, float]:
        if 1 not in seconds_by_rows or min(seconds_by_rows.values()) <= 0:
            raise ValueError("needs a time for 1 row, and only positive times; measure again")
        return seconds_by_rows

    @property
    def draft_fraction(self) -> float:
        """Cost of one draft step in target steps at one row."""
        return self.draft_seconds / self.target_seconds_by_rows[1]

    def speed_up(self, *, draft_tokens: int, acceptance_fraction: float) -> float:
        """Return generated tokens a second with a draft over those without.

        speed-up = tau / (c(k + 1) / c(1) + k d), with k drafted tokens a round, c(M) the target's
        time at M rows, d the draft's at one row in units of c(1), and tau the expected tokens of a
        round.

        Args:
            draft_tokens: k; `target_seconds_by_rows` holds k + 1.
            acceptance_fraction: Chance that a drafted token is the target's, in [0, 1].

        Source: Leviathan, Kalman and Matias, "Fast Inference from Transformers via Speculative
        Decoding" (2023), theorem 3.8, with verification at k + 1 rows at its measured price.
        """
        verify = self.target_seconds_by_rows[draft_tokens + 1] / self.target_seconds_by_rows[1]
        tokens = expected_tokens(draft_tokens=draft_tokens, acceptance_fraction=acceptance_fraction)
        return tokens / (verify + draft_tokens * self.draft_fraction)

    def best_draft_tokens(self, *, acceptance_fraction: float) -> int:
        """Return the measured number of drafted tokens of the highest speed-up; 0 means none pays."""
        return max(
            (rows - 1 for rows in sorted(self.target_seconds_by_rows)),
            key=lambda count: self.speed_up(
                draft_tokens=count, acceptance_fraction=acceptance_fraction
            ),
        )


def expected_tokens(*, draft_tokens: int, acceptance_fraction: float) -> float:
    """Return the expected tokens of a round: 1 + a + ... + a^k for k drafted tokens."""
    return sum(acceptance_fraction**position for position in range(draft_tokens + 1))


Measure = Callable[[Path, Path], StepCosts]
"""Measures the step costs of the models in a target folder and a draft folder."""
