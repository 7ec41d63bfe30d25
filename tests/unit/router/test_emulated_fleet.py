"""Policies on emulated replicas: what they are for, seen from outside."""

import random

import pytest
from emulated_replicas import Hardware, Request, run_fleet, text_of

from router.policy_config import (
    BoundedLoadConfig,
    PolicyConfig,
    PowerOfTwoConfig,
    PrefixAwareConfig,
    RoundRobinConfig,
)

SMALL = Hardware(kv_tokens=8192, bytes_per_second=1e12, flops_per_second=60e12)
FLEET = [SMALL] * 4


def grouped(num_requests: int) -> list[Request]:
    """Return requests of 64 groups, each with 384 tokens in common, 64 of their own."""
    rng = random.Random(1)
    groups = [rng.randrange(64) for _ in range(num_requests)]
    return [
        Request(text_of(384, ("group", group)) + text_of(64, ("own", place)), 16)
        for place, group in enumerate(groups)
    ]


def alone(num_requests: int) -> list[Request]:
    """Return requests that share nothing."""
    rng = random.Random(2)
    return [Request(text_of(rng.randrange(64, 512), place), 16) for place in range(num_requests)]


@pytest.mark.parametrize("policy", [PrefixAwareConfig(), BoundedLoadConfig()])
def test_shared_prefixes_are_found_and_the_load_stays_even(policy: PolicyConfig) -> None:
    """More is cached and done a second than in turns; prefix trees triple it at a tenth of variation.

    Every count of outstanding requests and tokens returns to zero.
    """
    ours = run_fleet(grouped(800), policy, FLEET, concurrency=32)
    turns = RoundRobinConfig(kind="round_robin")
    base = run_fleet(grouped(800), turns, FLEET, concurrency=32)
    assert ours.num_left == base.num_left == 0
    assert ours.requests_per_second > base.requests_per_second
    if policy.kind == "prefix_aware":
        assert ours.cached_fraction >= 3 * base.cached_fraction
        assert ours.load_variation <= 0.1


def test_without_shared_prefixes_it_is_no_worse_than_power_of_two() -> None:
    """Prompts that share nothing wait no longer than with two choices: mean of three rates and seeds."""
    ratios = []
    for rate in (10, 30, 60):
        ours, theirs = (
            sum(
                run_fleet(
                    alone(300), policy, FLEET, requests_per_second=rate, seed=seed
                ).mean_ttft_seconds
                for seed in range(3)
            )
            for policy in (PrefixAwareConfig(), PowerOfTwoConfig(kind="power_of_two"))
        )
        ratios.append(ours / theirs)
    assert sum(ratios) / len(ratios) <= 1
