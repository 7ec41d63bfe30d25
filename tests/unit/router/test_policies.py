"""Every policy, by what must hold whatever the candidates are."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.base import Candidate, Policy, Query
from router.policies import hash_ring
from router.policies.bounded_load import BoundedLoad
from router.policies.hash_ring import position
from router.policies.power_of_two import PowerOfTwo, two_of
from router.policies.prefix_aware import PrefixAware
from router.policies.registry import default_policy, make_policy
from router.policies.round_robin import RoundRobin
from router.policy_config import (
    BoundedLoadConfig,
    LeastOutstandingConfig,
    PolicyConfig,
    PowerOfTwoConfig,
    PrefixAwareConfig,
    RoundRobinConfig,
)

QUERY = Query("m", {"prompt": "x" * 200})
CONFIGS: list[PolicyConfig] = [
    RoundRobinConfig(kind="round_robin"),
    LeastOutstandingConfig(kind="least_outstanding"),
    PowerOfTwoConfig(kind="power_of_two"),
    PrefixAwareConfig(),
    BoundedLoadConfig(),
]
KINDS = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)

LOADS = st.lists(
    st.builds(
        Candidate,
        url=st.uuids().map(str),
        num_outstanding=st.integers(0, 60),
        outstanding_tokens=st.integers(0, 50_000),
        capacity_tokens=st.none() | st.integers(1, 100_000),
        prefix_fraction=st.floats(0, 1),
        adapter_fit=st.sampled_from([0.6, 0.8, 1.0]),
        latency_seconds=st.none() | st.floats(0, 100),
        weight=st.sampled_from([0.5, 1.0, 3.0]),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda each: each.url,
)


def keyed(number: int) -> Query:
    return Query("m", {"prompt": f"conversation {number}"})


@KINDS
@given(candidates=LOADS, seed=st.integers(0, 99))
def test_a_pick_is_a_candidate_and_depends_on_nothing_hidden(
    config: PolicyConfig, candidates: list[Candidate], seed: int
) -> None:
    """Equal policies with equal generators pick the same, one of the candidates, with its score."""
    picks = [make_policy(config, random.Random(seed).random) for _ in range(2)]
    first, second = (policy.pick(candidates, QUERY) for policy in picks)
    assert first == second
    assert first.url in {each.url for each in candidates}
    assert first.url in dict(first.scores)
    assert all(math.isfinite(score) for _, score in first.scores)


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    weights=st.lists(st.sampled_from([0.25, 1.0, 2.0]), min_size=12, max_size=12),
    factor=st.sampled_from([1.01, 1.25, 2.0]),
    number=st.integers(0, 1000),
)
def test_the_load_bound_is_never_exceeded(
    counts: list[int], weights: list[float], factor: float, number: int
) -> None:
    """The pick, with this request, is within the factor times its part of all, rounded up."""
    candidates = [
        Candidate(f"r{place}", count, weight=weight)
        for place, (count, weight) in enumerate(zip(counts, weights, strict=False))
    ]
    policy = BoundedLoad(BoundedLoadConfig(load_factor=factor, virtual_nodes=8))
    decision = policy.pick(candidates, keyed(number))
    picked = next(each for each in candidates if each.url == decision.url)
    part = picked.weight / sum(each.weight for each in candidates)
    assert picked.num_outstanding + 1 <= math.ceil(factor * part * (sum(counts) + 1) + 1e-9)


@settings(max_examples=20)
@given(num_replicas=st.integers(3, 12), leaving=st.integers(0, 11))
def test_about_one_in_n_keys_moves(num_replicas: int, leaving: int) -> None:
    """When an idle replica leaves or joins, only its own keys move: 1/n, within a factor of two."""
    urls = [f"http://replica-{place}:8000" for place in range(num_replicas)]
    gone = urls[leaving % num_replicas]
    everyone = [Candidate(url, 0) for url in urls]
    rest = [each for each in everyone if each.url != gone]
    policy = BoundedLoad(BoundedLoadConfig())
    fresh = BoundedLoad(BoundedLoadConfig())
    num_keys, moved = 400, 0
    for number in range(num_keys):
        before = policy.pick(everyone, keyed(number)).url
        after = policy.pick(rest, keyed(number)).url
        assert after == fresh.pick(rest, keyed(number)).url
        assert after == before or before == gone
        moved += after != before
    assert 0.5 / num_replicas < moved / num_keys < 2 / num_replicas


def test_workers_agree() -> None:
    """The place of a key does not depend on the process: these picks are fixed."""
    candidates = [Candidate(f"http://r{place}", 0) for place in range(4)]
    policy = BoundedLoad(BoundedLoadConfig())
    picks = [policy.pick(candidates, keyed(number)).url[-1] for number in range(12)]
    assert "".join(picks) == "211101322010"


def test_replicas_of_many_models_are_placed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many models take turns, a replica is put on the ring when it is first seen, not again."""
    placed: list[bytes] = []

    def counted(key: bytes) -> int:
        placed.append(key)
        return position(key)

    monkeypatch.setattr(hash_ring, "position", counted)
    policy = BoundedLoad(BoundedLoadConfig(virtual_nodes=8))
    models = [[Candidate(f"m{model}-r{place}", 0) for place in range(3)] for model in range(100)]
    for _ in range(3):
        for candidates in models:
            policy.pick(candidates, QUERY)
    assert len(placed) == len(set(placed)) == 100 * 3 * 8


def test_conversations_that_begin_alike_go_together_until_the_bound() -> None:
    """Requests of one beginning share a replica; when it is full the next on the ring takes over."""
    policy = BoundedLoad(BoundedLoadConfig(leading_characters=100))
    loads = dict.fromkeys(["a", "b", "c", "d"], 8)
    long = "y" * 100
    first = policy.pick([Candidate(*each) for each in loads.items()], Query("m", {"prompt": long}))
    same = policy.pick(
        [Candidate(*each) for each in loads.items()], Query("m", {"prompt": long + " more"})
    )
    assert (first.reason, same.url) == ("hashed", first.url)
    loads[first.url] = 20
    other = policy.pick([Candidate(*each) for each in loads.items()], Query("m", {"prompt": long}))
    assert other.reason == "next_on_ring"
    assert other.url != first.url


def test_round_robin_takes_turns_by_model() -> None:
    """Whatever the loads, each model's requests go round; a replica that comes back is next."""
    policy = RoundRobin()
    loads = [Candidate("a", 9), Candidate("b", 0), Candidate("c", 3)]
    assert [policy.pick(loads, QUERY).url for _ in range(4)] == ["a", "b", "c", "a"]
    assert policy.pick(loads, Query("other", {})).url == "a"
    assert policy.pick(loads[1:], QUERY).url == "b"
    assert policy.pick(loads, QUERY).url == "c"


def test_power_of_two_takes_the_less_loaded_of_a_fair_pair() -> None:
    """Every pair is drawn about as often; the more loaded of a pair is never picked."""
    candidates = [Candidate(f"r{place}", 0, outstanding_tokens=place) for place in range(5)]
    generator = random.Random(1)
    pairs = Counter(
        frozenset(each.url for each in two_of(candidates, generator.random)) for _ in range(10_000)
    )
    assert len(pairs) == 10
    assert max(pairs.values()) < 1.25 * min(pairs.values())
    policy = PowerOfTwo(generator.random)
    assert "r4" not in {policy.pick(candidates, QUERY).url for _ in range(500)}


def prefix_aware(**settings: float) -> Policy:
    return PrefixAware(PrefixAwareConfig.model_validate(settings), random.Random(1).random)


def test_the_prefix_holder_is_picked_unless_it_has_too_much_to_do() -> None:
    """A held prefix wins over some load, and loses to a queue beyond SMG's limits."""
    empty = Candidate("empty", 0)
    holder = Candidate("holder", 20, outstanding_tokens=8000, prefix_fraction=0.9)
    decision = prefix_aware().pick([empty, holder], QUERY)
    assert (decision.url, decision.reason) == ("holder", "prefix")
    buried = holder._replace(num_outstanding=33)
    decision = prefix_aware().pick([empty, buried], QUERY)
    assert (decision.url, decision.reason) == ("empty", "imbalanced")
    heavy = holder._replace(outstanding_tokens=70_000)
    decision = prefix_aware().pick([empty, heavy], QUERY)
    assert (decision.url, decision.reason) == ("empty", "no_prefix")


def test_prompts_nobody_holds_spread_by_load_and_turn() -> None:
    """Without a prefix the fewest tokens win; equals take turns."""
    policy = prefix_aware()
    three = [Candidate(name, 0) for name in "abc"]
    assert [policy.pick(three, QUERY).url for _ in range(4)] == ["a", "b", "c", "a"]
    busy = [three[0]._replace(outstanding_tokens=9), *three[1:]]
    assert policy.pick(busy, QUERY).reason == "no_prefix"
    assert "a" not in {policy.pick(busy, QUERY).url for _ in range(6)}


def test_a_loaded_adapter_and_a_fast_replica_break_what_would_be_a_tie() -> None:
    """An adapter in use beats one to be loaded; answers 10 % or 50 ms slower count as equally fast."""
    loadable, used = Candidate("a", 0, adapter_fit=0.6), Candidate("b", 0, adapter_fit=1.0)
    assert prefix_aware().pick([loadable, used], QUERY).url == "b"
    fast = Candidate("fast", 0, latency_seconds=1.0)
    for seconds, slowness in ((1.0, 1.0), (1.1, 1.0), (1.65, 1.5), (50.0, 4.0)):
        slow = Candidate("slow", 0, latency_seconds=seconds)
        scores = dict(prefix_aware().pick([slow, fast], QUERY).scores)
        assert scores["fast"] - scores["slow"] == pytest.approx(512 * (slowness - 1) / 65_536)
    busy = fast._replace(outstanding_tokens=10_000)
    slow = Candidate("slow", 0, latency_seconds=3.0)
    assert prefix_aware().pick([busy, slow], QUERY).url == "slow"


def test_of_many_replicas_a_sample_and_the_holder_are_scored() -> None:
    """From 32 candidates on two at random and the best holder of the prefix are compared."""
    many = [Candidate(f"r{place}", 0) for place in range(100)]
    many[77] = many[77]._replace(prefix_fraction=0.8)
    decision = prefix_aware().pick(many, QUERY)
    assert decision.url == "r77"
    assert len(decision.scores) == 3


def test_loads_are_divided_by_weights() -> None:
    """A replica of weight 4 with three times the load still has less to do."""
    weighty = Candidate("big", 3, outstanding_tokens=300, weight=4.0)
    light = Candidate("small", 1, outstanding_tokens=100)
    for config in (CONFIGS[1], CONFIGS[2], CONFIGS[3]):
        assert (
            make_policy(config, random.Random(2).random).pick([light, weighty], QUERY).url == "big"
        )


def test_the_default_depends_on_the_number_of_workers() -> None:
    """One worker knows what it has sent; several agree by hashing."""
    assert default_policy(num_workers=1).kind == "prefix_aware"
    assert default_policy(num_workers=2).kind == "bounded_load"
