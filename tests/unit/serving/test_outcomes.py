"""Which outcomes are drafted behind, and how what came changes that."""

import pytest

from serving.engine.draft_tree import DraftTree
from serving.engine.outcomes import OutcomeOdds

CHAIN = DraftTree.chain([5, 6, 7], [1, 2, 3])


def chances(odds):
    return {outcome.num_accepted: outcome.chance for outcome in odds.outcomes(CHAIN)}


def test_outcomes_are_refusals_and_going_on():
    """Each place may be refused for its second likeliest token; behind the last the draft goes on."""
    found = OutcomeOdds().outcomes(CHAIN)
    named = {(outcome.num_accepted, outcome.token) for outcome in found}
    assert named == {(0, 1), (1, 2), (2, 3), (3, None)}
    assert [outcome.chance for outcome in found] == sorted(chances(OutcomeOdds()).values())[::-1]
    assert sum(chances(OutcomeOdds()).values()) < 1


def test_nothing_follows_an_empty_chain():
    """No draft, no outcome; a chain without second tokens can only go on."""
    assert OutcomeOdds().outcomes(DraftTree()) == []
    assert [o.num_accepted for o in OutcomeOdds().outcomes(DraftTree.chain([5, 6]))] == [2]


def test_chances_approach_what_comes():
    """A refusal that always comes is certain in the end, and the others are not expected."""
    odds = OutcomeOdds()
    for _ in range(200):
        odds.observe(CHAIN, [5, 2], None)
    assert chances(odds)[1] == pytest.approx(1, abs=1e-3)
    assert max(chances(odds)[place] for place in (0, 2, 3)) < 1e-3


def test_another_token_is_no_hit():
    """A place that is refused for a third token lowers its chance."""
    odds = OutcomeOdds()
    before = chances(odds)
    odds.observe(CHAIN, [5, 9], None)
    assert chances(odds)[1] < before[1]


def test_what_the_draft_did_not_say_is_not_counted():
    """Where all were accepted and the draft was too late to go on, nothing is learnt of that."""
    odds = OutcomeOdds()
    before = chances(odds)
    odds.observe(CHAIN, [5, 6, 7, 8], None)
    assert chances(odds)[3] == before[3]
    odds.observe(CHAIN, [5, 6, 7, 8], 8)
    assert chances(odds)[3] > before[3]
