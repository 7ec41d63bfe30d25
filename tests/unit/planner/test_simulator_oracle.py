"""The simulator against one that takes every step of every replica singly."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fleets import LinearStepTimes, fleet, pool
from step_by_step_simulator import simulate_step_by_step

from planner.errors import InfeasibleError
from planner.simulator import (
    Loss,
    ServingFleet,
    SizeShares,
    batches_of,
    simulate,
    without_market,
    without_replica,
)
from planner.workloads.trace import Trace


def _agree(serving_fleet, trace, seed, losses=()):
    result = simulate(serving_fleet, trace, seed=seed, losses=losses, count_tokens=True)
    slow = simulate_step_by_step(serving_fleet, trace, seed, losses)
    close = {"rel": 1e-9, "abs": 1e-9}
    assert result.completion_seconds == pytest.approx([r.token_times[-1] for r in slow], **close)
    assert result.first_token_seconds == pytest.approx([r.token_times[0] for r in slow], **close)
    assert list(result.num_evictions) == [each.evictions for each in slow]
    assert list(result.num_restarts) == [each.restarts for each in slow]
    places = [
        (p, r) for p, each in enumerate(serving_fleet.pools) for r in range(each.num_replicas)
    ]
    assert [places[index] for index in result.replica_of] == [each.place for each in slow]
    _gaps_agree(result, slow)
    return result, slow


def _gaps_agree(result, slow):
    answers = [answer for each in slow for answer in (*each.lost_token_times, each.token_times)]
    gaps = [after - before for answer in answers for before, after in pairwise(answer)]
    samples = batches_of(result)
    assert samples.num_values("token gap") == len(gaps)
    if gaps:
        estimates = samples.estimates("token gap")
        assert estimates["mean"].value == pytest.approx(np.mean(gaps), rel=1e-9)
        for percentile in (50, 90, 95, 99):
            exact = np.percentile(gaps, percentile, method="inverted_cdf")
            assert estimates[f"p{percentile}"].value == pytest.approx(exact, rel=0.005)


@st.composite
def _cases(draw):
    pools = []
    for index in range(draw(st.integers(1, 2))):
        max_sequences = draw(st.integers(1, 6))
        times = LinearStepTimes(step=0.0101 + 0.0037 * index, context_token=1.9e-6 * (1 - index))
        pools.append(
            pool(
                f"p{index}",
                draw(st.integers(1, 3)),
                market=f"m{index}",
                step_times=times,
                kv_capacity_tokens=draw(st.integers(60, 160)),
                max_sequences=max_sequences,
                max_batched_tokens=max_sequences + draw(st.integers(0, 30)),
            )
        )
    shares = st.integers(0, 3).map(lambda thirds: thirds / 3)
    sizes = {}
    for model in ("m", "n"):
        firsts = draw(st.lists(shares, min_size=2, max_size=2)) if len(pools) == 2 else [1.0, 1.0]
        rows = tuple((first, 1 - first)[: len(pools)] for first in firsts)
        sizes[model] = SizeShares((15, 40), rows)
    serving_fleet = ServingFleet(tuple(pools), sizes)
    requests = draw(
        st.lists(
            st.tuples(
                st.integers(0, 200), st.integers(1, 30), st.integers(1, 30), st.sampled_from("mn")
            ),
            min_size=1,
            max_size=30,
        )
    )
    gaps, inputs, outputs, models = zip(*requests, strict=True)
    arrivals = (np.cumsum(gaps) - gaps[0]) / 1000
    return serving_fleet, Trace(arrivals.tolist(), inputs, outputs, models), draw(st.integers(0, 9))


@st.composite
def _cases_with_losses(draw):
    whole, trace, seed = draw(_cases())
    losses, left = [], whole
    for milliseconds in sorted(draw(st.lists(st.integers(0, 6000), min_size=1, max_size=3))):
        pool_index = draw(st.integers(0, len(whole.pools) - 1))
        lose = draw(st.sampled_from([without_replica, without_market]))
        lost = whole.pools[pool_index].market if lose is without_market else pool_index
        try:
            left = lose(left, lost)
        except (InfeasibleError, ValueError):  # nobody would be left, or nothing is to lose
            continue
        losses.append(Loss(milliseconds / 1000, left))
    return whole, trace, seed, losses


@settings(max_examples=150, deadline=None)
@given(_cases())
def test_random_traces_complete_as_in_the_step_by_step_simulator(case):
    """Completions and first tokens agree to 1e-9, evictions and replicas exactly."""
    _agree(*case)


@settings(max_examples=150, deadline=None)
@given(_cases_with_losses())
def test_replicas_and_markets_lost_on_the_way_agree_with_the_step_by_step_simulator(case):
    """Stranded requests start anew at the same replica and the same instant in both."""
    _agree(*case)


def _crowded(seed, num_requests=150):
    generator = np.random.default_rng(seed)
    arrivals = np.cumsum(generator.exponential(0.02, num_requests))
    return Trace(
        (arrivals - arrivals[0]).tolist(),
        generator.integers(1, 120, num_requests).tolist(),
        generator.integers(1, 120, num_requests).tolist(),
    )


@pytest.mark.parametrize("seed", range(5))
def test_crowded_replicas_agree_with_the_step_by_step_simulator(seed):
    """The two agree where memory is short: prompts are cut in chunks, sequences evicted."""
    tight = pool(num_replicas=2, kv_capacity_tokens=400, max_sequences=8, max_batched_tokens=40)
    result, _ = _agree(fleet(tight, pool("b")), _crowded(seed), seed)
    assert sum(result.num_evictions) > 20


def test_a_crowded_market_lost_agrees_with_the_step_by_step_simulator():
    """A loss in the middle of full queues, prefills and evictions is the same in both."""
    tight = {"kv_capacity_tokens": 400, "max_batched_tokens": 40}
    whole = fleet(pool("a", 2, market="spot", **tight), pool("b", 2, **tight))
    losses = [Loss(1.2345, without_market(whole, "spot"))]
    result, _ = _agree(whole, _crowded(7), 7, losses)
    assert sum(result.num_restarts) > 20
    assert sum(result.num_evictions) > 20
