"""The policy that follows the planned weights."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from router.base import Candidate, Query
from router.config import ModelConfig
from router.input_size import InputSizes
from router.policies.least_outstanding import LeastOutstanding
from router.policies.planned_weights import PlannedWeights, draw_offer

SHORT, LONG = "x" * 40, "x" * 4000
"""About 10 and 1,000 tokens at a quarter token a byte."""

MODEL = ModelConfig.model_validate(
    {
        "name": "m",
        "replicas": [
            {"url": "http://a1", "offer": "a"},
            {"url": "http://a2", "offer": "a"},
            {"url": "http://b", "offer": "b"},
            {"url": "http://c", "offer": "c"},
        ],
        "weights": [
            {"input_tokens_up_to": 100, "weights": {"a": 600, "b": 300, "c": 100}},
            {"input_tokens_up_to": 500, "weights": {"b": 1000}},
        ],
    }
)
URLS = tuple(replica.url for replica in MODEL.replicas)
OFFERS = {replica.url: replica.offer for replica in MODEL.replicas}


def policy() -> PlannedWeights:
    return PlannedWeights([MODEL], InputSizes(["m"]), LeastOutstanding())


def candidates(*urls: str) -> list[Candidate]:
    return [Candidate(url, 0, OFFERS[url]) for url in urls]


def query(prompt: str, draw: float) -> Query:
    return Query("m", {"prompt": prompt}, draw)


def picked_counts(urls: tuple[str, ...], num_picks: int, *, seed: int) -> dict[str, int]:
    """Count the picks of each offer among `urls` for short prompts."""
    random_draw, chosen = random.Random(seed).random, policy()
    counts = dict.fromkeys("abc", 0)
    for _ in range(num_picks):
        decision = chosen.pick(candidates(*urls), query(SHORT, random_draw()))
        assert OFFERS[decision.url] == decision.offer
        counts[decision.offer] += 1
    return counts


def test_the_weights_are_met_in_the_long_run() -> None:
    """20,000 picks differ from the weights no more than chance does (chi-square, p > 0.001)."""
    counts = picked_counts(URLS, 20_000, seed=1)
    assert chisquare(list(counts.values()), [12_000, 6_000, 2_000]).pvalue > 1e-3


def test_the_rest_shares_in_proportion_when_an_offer_is_out() -> None:
    """Without a's replicas, b and c take three to one, as their weights say."""
    counts = picked_counts(("http://b", "http://c"), 20_000, seed=2)
    assert counts["a"] == 0
    assert chisquare([counts["b"], counts["c"]], [15_000, 5_000]).pvalue > 1e-3


def test_an_ejected_offer_moves_only_its_own_requests() -> None:
    """Requests drawn for an offer that is there go where they would have gone anyway."""
    draws = [number / 997 for number in range(997)]
    for draw in draws:
        before = policy().pick(candidates(*URLS), query(SHORT, draw))
        after = policy().pick(candidates("http://b", "http://c"), query(SHORT, draw))
        assert after.reason == ("planned_weights" if before.offer != "a" else "other_offer")
        if before.offer != "a":
            assert after.offer == before.offer


def test_a_retry_stays_with_the_offer_drawn() -> None:
    """With the same draw and one replica of the offer left, that replica is picked."""
    first = policy().pick(candidates(*URLS), query(SHORT, 0.1))
    left = [url for url in URLS if url != first.url]
    again = policy().pick(candidates(*left), query(SHORT, 0.1))
    assert (first.offer, again.offer, again.reason) == ("a", "a", "planned_weights")


def test_the_range_follows_the_input_size() -> None:
    """A long prompt, and one longer than every range, goes by the last range's weights."""
    for prompt in ("x" * 1200, LONG):
        decision = policy().pick(candidates(*URLS), query(prompt, 0.99))
        assert decision.offer == "b"


def test_replicas_without_weight_serve_only_when_no_other_can() -> None:
    """Long prompts are planned for b alone; without b the least loaded replica takes them."""
    loaded = [Candidate("http://a1", 3, "a"), Candidate("http://c", 1, "c")]
    decision = policy().pick(loaded, query(LONG, 0.5))
    assert (decision.url, decision.offer, decision.reason) == ("http://c", "c", "unplanned_offer")


def test_inside_an_offer_the_least_outstanding_replica_is_picked() -> None:
    """Two replicas of one offer share by what is outstanding."""
    loaded = [
        Candidate("http://a1", 5, "a"),
        Candidate("http://a2", 4, "a"),
        Candidate("http://c", 0, "c"),
    ]
    assert policy().pick(loaded, query(SHORT, 0.2)).url == "http://a2"


def test_a_model_without_weights_is_left_to_least_outstanding() -> None:
    """An adapter's name has no weights: the choice is as without any."""
    decision = policy().pick(candidates(*URLS), Query("adapter", {"prompt": SHORT}, 0.9))
    assert (decision.offer, decision.reason) == (None, "least_outstanding")


@given(
    weights=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5), min_size=1),
    present=st.sets(st.sampled_from("abcdef")),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_is_always_of_a_present_offer_with_weight(weights, present, draw) -> None:
    """Nothing is drawn exactly when no present offer has a weight."""
    able = {offer for offer in present if weights.get(offer)}
    drawn = draw_offer(weights, present, draw)
    assert drawn in able if able else drawn is None


@pytest.mark.parametrize(("draw", "offer"), [(0.0, "a"), (0.2499, "a"), (0.25, "b"), (0.9999, "b")])
def test_a_draw_falls_on_the_stretch_of_its_offer(draw: float, offer: str) -> None:
    """Offers take stretches of [0, 1) as long as their weights, in order."""
    assert draw_offer({"a": 1, "b": 3}, {"a", "b"}, draw) == offer


def held(fraction: float, url: str) -> list[Candidate]:
    """Return every replica idle, with part of the prompt held at `url`."""
    return [
        each._replace(prefix_fraction=fraction) if each.url == url else each
        for each in candidates(*URLS)
    ]


def test_a_conversation_follows_its_prefix_to_another_offer() -> None:
    """Half of the prompt or more held by another planned offer outweighs the draw; less does not."""
    decision = policy().pick(held(0.6, "http://c"), query(SHORT, 0.0))
    assert (decision.url, decision.offer, decision.reason) == ("http://c", "c", "planned_prefix")
    assert policy().pick(held(0.4, "http://c"), query(SHORT, 0.0)).offer == "a"
    assert policy().pick(held(0.9, "http://c"), query(LONG, 0.0)).offer == "b"


def test_shares_hold_even_if_one_offer_holds_every_prompt() -> None:
    """However the prefixes pull, the offer with a tenth of the requests gets little more."""
    random_draw, chosen = random.Random(3).random, policy()
    picks = [chosen.pick(held(1.0, "http://c"), query(SHORT, random_draw())) for _ in range(5000)]
    share = sum(decision.offer == "c" for decision in picks) / len(picks)
    assert 0.1 < share < 0.16
