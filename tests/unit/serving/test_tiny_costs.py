import pytest
from pydantic import ValidationError

from serving.tiny.costs import StepCosts, expected_tokens

COSTS = StepCosts(
    target_seconds_by_rows={1: 0.010, 2: 0.012, 5: 0.018},
    draft_seconds=0.001,
    draft_fraction_range=(0.09, 0.11),
    hardware="a test",
)


def test_speed_up_is_tokens_over_cost() -> None:
    """Four drafted tokens at acceptance one half: 1.9375 tokens for 1.8 + 0.4 target steps."""
    assert COSTS.draft_fraction == pytest.approx(0.1)
    gain = COSTS.speed_up(draft_tokens=4, acceptance_fraction=0.5)
    assert gain == pytest.approx(1.9375 / 2.2)


def test_expected_tokens_runs_from_one_to_all() -> None:
    """A draft that is never right yields one token a round, one that always is yields all."""
    assert expected_tokens(draft_tokens=3, acceptance_fraction=0.0) == 1
    assert expected_tokens(draft_tokens=3, acceptance_fraction=1.0) == 4


@pytest.mark.parametrize(("acceptance", "best"), [(0.0, 0), (0.5, 1), (1.0, 4)])
def test_better_drafts_draft_further(acceptance: float, best: int) -> None:
    """The best length grows with acceptance, and is none at all for a useless draft."""
    assert COSTS.best_draft_tokens(acceptance_fraction=acceptance) == best


@pytest.mark.parametrize("seconds_by_rows", [{2: 1.0}, {1: 1.0, 2: 0.0}])
def test_costs_without_one_row_or_with_zero_time_are_refused(
    seconds_by_rows: dict[int, float],
) -> None:
    """The cost at one row is the unit of all others."""
    with pytest.raises(ValidationError, match="1 row"):
        StepCosts.model_validate(COSTS.model_dump() | {"target_seconds_by_rows": seconds_by_rows})
