import pytest
from pydantic import ValidationError

from serving.tiny.costs import StepCosts, expected_tokens

COSTS = StepCosts(
    target_seconds_by_rows={1: 0.010, 2: 0.012, 5: 0.018},
    draft_seconds_by_draft_tokens={1: 0.0015, 4: 0.001},
    draft_fraction_range_by_draft_tokens={1: (0.14, 0.16), 4: (0.09, 0.11)},
    hardware="a test",
)


def test_speed_up_is_tokens_over_cost() -> None:
    """At acceptance one half: 1.9375 tokens for 1.8 + 4 x 0.1 target steps, 1.5 for 1.2 + 0.15."""
    assert COSTS.draft_fraction(4) == pytest.approx(0.1)
    gain = COSTS.speed_up(draft_tokens=4, acceptance_fraction=0.5)
    assert gain == pytest.approx(1.9375 / 2.2)
    gain = COSTS.speed_up(draft_tokens=1, acceptance_fraction=0.5)
    assert gain == pytest.approx(1.5 / 1.35)
    assert COSTS.speed_up(draft_tokens=0, acceptance_fraction=0.5) == 1


def test_expected_tokens_runs_from_one_to_all() -> None:
    """A draft that is never right yields one token a round, one that always is yields all."""
    assert expected_tokens(draft_tokens=3, acceptance_fraction=0.0) == 1
    assert expected_tokens(draft_tokens=3, acceptance_fraction=1.0) == 4


@pytest.mark.parametrize(("acceptance", "best"), [(0.0, 0), (0.5, 1), (1.0, 4)])
def test_better_drafts_draft_further(acceptance: float, best: int) -> None:
    """The best length grows with acceptance, and is none at all for a useless draft."""
    lengths = [0, *COSTS.draft_tokens]
    gains = {k: COSTS.speed_up(draft_tokens=k, acceptance_fraction=acceptance) for k in lengths}
    assert max(gains, key=lambda count: gains[count]) == best


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_seconds_by_rows": {2: 1.0, 5: 1.0}}, "no time for 1 row"),
        ({"target_seconds_by_rows": {1: 1.0, 2: 0.0, 5: 1.0}}, "greater than 0"),
        ({"target_seconds_by_rows": {1: 1.0, 2: 1.0}}, r"\[1, 4\] drafted tokens.* for \[1\]"),
        ({"draft_seconds_by_draft_tokens": {1: 0.1}}, r"\[1\] drafted tokens.* for \[1, 4\]"),
        ({"draft_seconds_by_draft_tokens": {1: 0.1, 4: 0.0}}, "greater than 0"),
        ({"draft_fraction_range_by_draft_tokens": {1: (0.1, 0.2), 4: (0.2, 0.1)}}, "lowest first"),
        (
            {"draft_fraction_range_by_draft_tokens": {1: (0.1, 0.2), 4: (0.0, 0.1)}},
            "greater than 0",
        ),
    ],
    ids=str,
)
def test_costs_that_are_no_costs_are_refused(changes: dict[str, object], words: str) -> None:
    """The cost at one row is the unit of all others, times are positive, no round lacks a part."""
    with pytest.raises(ValidationError, match=words):
        StepCosts.model_validate(COSTS.model_dump() | changes)
