"""Acceptance learnt from rounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.drafting.acceptance_estimate import AcceptanceEstimate
from planner.drafting.draft_tree import checked_acceptance

COUNTS = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=3), max_size=3
)


def test_the_prior_counts_for_a_few_tries():
    """Twelve refusals beside four tries at 0.8 leave 0.2; what was not tried is as it was."""
    estimate = AcceptanceEstimate([[0.8], [0.4]])
    after = estimate.updated(tried=[[12]], accepted=[[0]])
    assert after.averages == ((pytest.approx(0.2),), (0.4,))
    assert estimate.averages == ((0.8,), (0.4,))


def test_a_half_life_of_tries_halves_what_was_counted():
    """Sixty-four acceptances count for 32 behind 64 refusals."""
    estimate = AcceptanceEstimate([[0.5]]).updated(tried=[[64]], accepted=[[64]])
    after = estimate.updated(tried=[[64]], accepted=[[0]])
    assert after.averages[0][0] == pytest.approx((2 + 32) / (4 + 32 + 64))


def test_the_estimate_finds_the_acceptance_there_is():
    """From a wrong prior, 5,000 rounds at 0.6 and 0.2 end near both."""
    estimate, generator = AcceptanceEstimate([[0.1, 0.05]]), random.Random(0)
    for _ in range(5000):
        right = generator.choices((0, 1, 2), (0.6, 0.2, 0.2))[0]
        estimate = estimate.updated(tried=[[1, 1]], accepted=[[int(right == 0), int(right == 1)]])
    assert estimate.acceptance[0] == pytest.approx((0.6, 0.2), abs=0.09)


def test_what_is_not_tried_drifts_to_its_prior():
    """A draft switched off after a bad text comes back to its prior as the count fades."""
    low = AcceptanceEstimate([[0.8]]).updated(tried=[[96]], accepted=[[0]])
    assert low.averages[0][0] == pytest.approx(0.8 * 4 / 100)
    averages = []
    for _ in range(3):
        for _ in range(1500):
            low = low.updated(tried=[], accepted=[])
        averages.append(low.averages[0][0])
    assert averages == pytest.approx([0.8 * 4 / (4 + count) for count in (48, 24, 12)])


def test_a_second_chance_takes_few_tries_to_be_lost():
    """Where the old count has faded, new refusals weigh more than they did at first."""
    idle = AcceptanceEstimate([[0.8]]).updated(tried=[[96]], accepted=[[0]])
    for _ in range(6000):
        idle = idle.updated(tried=[], accepted=[])
    again = idle.updated(tried=[[8]], accepted=[[0]])
    assert again.averages[0][0] < 0.6 * idle.averages[0][0]


@given(st.lists(COUNTS, max_size=20))
def test_the_table_is_always_one_a_plan_takes(rounds):
    """Whatever is counted, chances stay chances and siblings sum to 1 at most."""
    estimate = AcceptanceEstimate([[0.5, 0.3, 0.2], [0.9]])
    for counts in rounds:
        estimate = estimate.updated(
            tried=[[max(pair) for pair in ranks] for ranks in counts],
            accepted=[[min(pair) for pair in ranks] for ranks in counts],
        )
    assert checked_acceptance(estimate.acceptance) == estimate.acceptance


@pytest.mark.parametrize(
    ("tried", "accepted", "words"),
    [
        ([[1]], [[2]], "2 of 1 tries accepted at depth 1"),
        ([[1]], [[-1]], "-1 of 1"),
        ([[1, 1]], [[1]], "differ in shape"),
    ],
)
def test_counts_that_cannot_be_are_refused(tried, accepted, words):
    """More accepted than tried is a bug of the caller's."""
    with pytest.raises(ValueError, match=words):
        AcceptanceEstimate([[0.5]]).updated(tried=tried, accepted=accepted)


def test_bad_priors_and_half_lives_are_refused():
    """A prior is a table of chances, a half-life above 0 and no NaN."""
    with pytest.raises(ValueError, match="acceptance 2"):
        AcceptanceEstimate([[2.0]])
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="half_life_tries"):
            AcceptanceEstimate(((0.5,),), half_life_tries=bad)
