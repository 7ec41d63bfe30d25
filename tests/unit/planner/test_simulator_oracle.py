"""The simulator against one that takes every step of every replica singly."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fleets import LinearStepTimes, fleet, pool
from step_by_step_simulator import simulate_step_by_step

from planner.simulator import ServingFleet, SizeShares, Trace, simulate


def _agree(serving_fleet, trace, seed):
    result = simulate(serving_fleet, trace, seed=seed)
    slow = simulate_step_by_step(serving_fleet, trace, seed)
    close = {"rel": 1e-9, "abs": 1e-9}
    assert result.completion_seconds == pytest.approx([r.token_times[-1] for r in slow], **close)
    assert result.first_token_seconds == pytest.approx([r.token_times[0] for r in slow], **close)
    assert list(result.num_evictions) == [each.evictions for each in slow]
    places = [
        (p, r) for p, each in enumerate(serving_fleet.pools) for r in range(each.num_replicas)
    ]
    assert [places[index] for index in result.replica_of] == [each.place for each in slow]
    return result, slow


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
                step_times=times,
                kv_capacity_tokens=draw(st.integers(60, 160)),
                max_sequences=max_sequences,
                max_batched_tokens=max_sequences + draw(st.integers(0, 30)),
            )
        )
    shares = st.integers(0, 3).map(lambda thirds: thirds / 3)
    firsts = draw(st.lists(shares, min_size=2, max_size=2)) if len(pools) == 2 else [1.0, 1.0]
    rows = tuple((first, 1 - first)[: len(pools)] for first in firsts)
    serving_fleet = ServingFleet(tuple(pools), {"m": SizeShares((15, 40), rows)})
    requests = draw(
        st.lists(
            st.tuples(st.integers(0, 200), st.integers(1, 30), st.integers(1, 30)),
            min_size=1,
            max_size=30,
        )
    )
    gaps, inputs, outputs = zip(*requests, strict=True)
    arrivals = np.cumsum(gaps) / 1000
    return serving_fleet, Trace(arrivals.tolist(), inputs, outputs), draw(st.integers(0, 9))


@settings(max_examples=300, deadline=None)
@given(_cases())
def test_random_traces_complete_as_in_the_step_by_step_simulator(case):
    """Completions and first tokens agree to 1e-9, evictions and replicas exactly."""
    _agree(*case)


def _crowded(seed, num_requests=150):
    generator = np.random.default_rng(seed)
    return Trace(
        np.cumsum(generator.exponential(0.02, num_requests)).tolist(),
        generator.integers(1, 120, num_requests).tolist(),
        generator.integers(1, 120, num_requests).tolist(),
    )


@pytest.mark.parametrize("seed", range(5))
def test_crowded_replicas_agree_with_the_step_by_step_simulator(seed):
    """The two agree where memory is short: prompts are cut in chunks, sequences evicted."""
    tight = pool(num_replicas=2, kv_capacity_tokens=400, max_sequences=8, max_batched_tokens=40)
    result, _ = _agree(fleet(tight, pool("b")), _crowded(seed), seed)
    assert sum(result.num_evictions) > 20


def test_gaps_between_tokens_agree_with_the_step_by_step_simulator():
    """Percentiles of all gaps, those over evictions included, are within half a per cent."""
    tight = pool(kv_capacity_tokens=500, max_batched_tokens=40)
    result, slow = _agree(fleet(tight), _crowded(1), 1)
    gaps = [after - before for each in slow for before, after in pairwise(each.token_times)]
    assert len(result.token_gaps) == len(gaps)
    for fraction in (0.1, 0.5, 0.9, 0.99, 1.0):
        exact = np.quantile(gaps, fraction, method="inverted_cdf")
        assert result.token_gaps.percentile(fraction) == pytest.approx(exact, rel=0.005)
