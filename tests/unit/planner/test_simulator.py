"""The simulator's rules on examples done by hand, queueing theory, and properties of fleets."""

import random
import statistics
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fleets import LinearStepTimes, fleet, pool

import planner.simulator
from planner.errors import WorkloadError
from planner.simulator import ServingFleet, SizeShares, batches_of, simulate, without_replica
from planner.speed.step_times import StepBatch
from planner.workloads.trace import Trace

SECOND_A_STEP = LinearStepTimes(1.0, 0.0, 0.0, 0.0, 0.0)


def _poisson(rate, num_requests, seed, *, inputs=(1, 100), outputs=(1, 60)):
    draws = random.Random(seed)
    gaps = [draws.expovariate(rate) for _ in range(num_requests - 1)]
    return Trace(
        list(accumulate(gaps, initial=0.0)),
        [draws.randint(*inputs) for _ in range(num_requests)],
        [draws.randint(*outputs) for _ in range(num_requests)],
    )


def test_public_names_are_pinned_and_sorted():
    """The package exports what a caller needs, in order."""
    assert planner.simulator.__all__ == [
        "Estimate",
        "LatencySamples",
        "Loss",
        "PoolOutcome",
        "ReplicaPool",
        "ReplicaUse",
        "ServingFleet",
        "SimulationResult",
        "SizeShares",
        "TargetOutcome",
        "batches_of",
        "judge",
        "replicate",
        "simulate",
        "without_market",
        "without_replica",
    ]


def test_two_requests_by_hand():
    """A second prompt waits for the step in progress, then is cut beside the first's decodes.

    Steps of the budget of 10, at 1 s, 0.1 s a prompt token, 0.01 s a pair, 0.5 s a decoding sequence
    and 0.001 s a token of context:
      0.00  8 of A's prompt, 36 pairs: 1 + 0.8 + 0.36 = 2.16; A's first token
      2.16  A decodes at 9, 9 of B's 12, 45 pairs: 1 + 0.9 + 0.45 + 0.5 + 0.009 = 2.859
      5.019 A decodes at 10, B's last 3 over 9, 33 pairs: 1 + 0.3 + 0.33 + 0.5 + 0.01 = 2.14;
            B's first token, A's third and last
      7.159 B decodes at 13: 1 + 0.5 + 0.013 = 1.513; B's second and last
    """
    times = LinearStepTimes(1.0, 0.1, 0.01, 0.5, 0.001)
    one = fleet(pool(step_times=times, max_batched_tokens=10))
    result = simulate(one, Trace([0.0, 0.5], [8, 12], [3, 2]), seed=0)
    assert result.first_token_seconds == pytest.approx([2.16, 7.159])
    assert result.completion_seconds == pytest.approx([7.159, 8.672])
    assert result.ttft_seconds() == pytest.approx([2.16, 6.659])
    assert result.tpot_seconds() == pytest.approx([(7.159 - 2.16) / 2, 1.513])
    assert result.replicas[0].busy_fraction == pytest.approx(1.0)


def test_an_eviction_by_hand():
    """When memory runs out the younger sequence leaves, waits, and is computed anew.

    Ten tokens of memory, steps of 1 s. A and B have prompts of 3 and 4 tokens, each emits 4. At 0 A
    prefills, B having come just after. At 1 A's decode and B's prefill take 4 + 4 tokens. At 2 both
    decode: 10. At 3 both want another: B leaves with 2 tokens out, A ends at 4. B's 6 are computed in
    the step from 4 and bring its third token; it ends at 6.
    """
    one = fleet(pool(step_times=SECOND_A_STEP, kv_capacity_tokens=10))
    result = simulate(one, Trace([0.0, 0.0], [3, 4], [4, 4]), seed=0, count_tokens=True)
    assert result.first_token_seconds == pytest.approx([1.0, 2.0])
    assert result.completion_seconds == pytest.approx([4.0, 6.0])
    assert result.num_evictions == [0, 1]
    gaps = batches_of(result)
    assert gaps.num_values("token gap") == 6
    assert gaps.num_late("token gap", 1.0) == 1
    assert gaps.estimates("token gap")["p99"].value == pytest.approx(2.0)


def test_nobody_overtakes_a_head_that_waits_for_memory():
    """A short request stays behind a long one that does not fit yet."""
    one = fleet(pool(step_times=SECOND_A_STEP, kv_capacity_tokens=20))
    result = simulate(one, Trace([0.0, 0.1, 0.2], [10, 15, 1], [5, 1, 1]), seed=0)
    assert result.first_token_seconds == pytest.approx([1.0, 6.0, 6.0])


@given(st.integers(1, 300), st.integers(1, 50))
def test_an_idle_replica_answers_after_the_prefill_alone(input_tokens, output_tokens):
    """Without load the time to first token is the time of the prompt's chunks."""
    times = LinearStepTimes()
    chunks = [(past, min(64, input_tokens - past)) for past in range(0, input_tokens, 64)]
    expected = sum(
        times.step_seconds(StepBatch(new, new * (past + (new + 1) / 2), 0, 0))
        for past, new in chunks
    )
    trace = Trace([0.0, 1e4], [input_tokens] * 2, [output_tokens] * 2)
    result = simulate(fleet(pool()), trace, seed=0)
    assert result.ttft_seconds() == pytest.approx([expected] * 2)


def test_one_sequence_at_a_time_is_the_m_d_1_queue():
    """With Poisson arrivals and a fixed service time the mean wait is rho / (2 (1 - rho)) services."""
    serial = fleet(pool(step_times=SECOND_A_STEP, max_sequences=1))
    trace = _poisson(0.7, 40_000, seed=3, inputs=(5, 5), outputs=(1, 1))
    result = simulate(serial, trace, seed=0)
    wait = statistics.mean(result.ttft_seconds()) - 1.0
    assert wait == pytest.approx(0.7 / (2 * 0.3), rel=0.05)
    assert result.replicas[0].busy_fraction == pytest.approx(0.7, rel=0.02)


def test_pools_get_their_shares_and_replicas_of_a_pool_the_same():
    """Draws follow the weights by input size; replicas of one pool are loaded alike."""
    sizes = SizeShares((50, 100), ((0.75, 0.25), (0.0, 1.0)))
    pools = (pool("a", 3), pool("b", 2))
    trace = _poisson(8.0, 8000, seed=1, inputs=(1, 200))
    result = simulate(ServingFleet(pools, {"m": sizes}), trace, seed=5)
    counts = [each.num_requests for each in result.replicas]
    assert sum(counts) == 8000
    assert sum(counts[:3]) == pytest.approx(8000 * 0.25 * 0.75, rel=0.05)
    assert max(counts[:3]) < 1.1 * min(counts[:3])
    assert {result.replica_of[i] // 3 for i in range(8000) if trace.input_tokens[i] > 50} == {1}


def test_ties_rotate():
    """Among equally idle replicas the one picked longest ago is next."""
    trace = Trace([10.0 * i for i in range(6)], [1] * 6, [1] * 6)
    assert simulate(fleet(pool(num_replicas=3)), trace, seed=0).replica_of == [0, 1, 2, 0, 1, 2]


def test_models_keep_to_their_own_pools():
    """Each request is routed by the shares of the model it names."""
    shares = {"x": SizeShares((9,), ((1.0, 0.0),)), "y": SizeShares((9,), ((0.0, 1.0),))}
    both = ServingFleet((pool("a"), pool("b")), shares)
    columns = ([0.0, 1.0, 2.0], [5, 5, 5], [5, 5, 5])
    assert simulate(both, Trace(*columns, ["y", "x", "y"]), seed=0).replica_of == [1, 0, 1]
    with pytest.raises(WorkloadError, match="asks for z, the fleet serves x, y"):
        simulate(both, Trace(*columns, ["y", "z", "y"]), seed=0)
    with pytest.raises(WorkloadError, match="the trace names no model"):
        simulate(both, Trace(*columns), seed=0)


def test_progress_rises_to_one_and_changes_nothing():
    """The caller hears of every twentieth of the arrivals, and of the end once all is served."""
    trace, heard = _poisson(6.0, 500, seed=2), []
    result = simulate(fleet(pool()), trace, seed=0, on_progress=heard.append)
    assert heard == pytest.approx([part / 20 for part in range(1, 21)])
    quiet = simulate(fleet(pool()), trace, seed=0, count_tokens=True)
    assert result.completion_seconds == quiet.completion_seconds


def test_the_same_seed_gives_the_same_times():
    """A simulation depends on its arguments alone."""
    two = fleet(pool("a", 2), pool("b"))
    trace = _poisson(6.0, 500, seed=2)
    first, again, other = (simulate(two, trace, seed=seed) for seed in (1, 1, 2))
    assert first.completion_seconds == again.completion_seconds
    assert first.completion_seconds != other.completion_seconds


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_removing_a_replica_never_speeds_a_loaded_fleet_up(seed, num_replicas):
    """The median time to first token does not fall when one replica's load moves to the others."""
    whole = fleet(pool(num_replicas=num_replicas))
    trace = _poisson(4.0 * num_replicas, 600, seed=seed)
    full, less = (
        statistics.median(simulate(each, trace, seed=0).ttft_seconds())
        for each in (whole, without_replica(whole, 0))
    )
    assert less >= full


def test_a_request_that_can_never_fit_is_named():
    """A request longer than the memory is refused before it blocks the queue for ever."""
    with pytest.raises(
        WorkloadError, match="request 1 needs 2001 tokens of KV memory, a replica of a"
    ):
        simulate(fleet(pool()), Trace([0.0, 1.0], [1, 2000], [1, 2]), seed=0)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (lambda batch: 0.01 + 1e-9 * batch.decode_context_tokens**2, "not affine"),
        (lambda batch: 0.02 if batch.prefill_tokens else 0.0, "above 0"),
    ],
)
def test_step_times_that_break_their_promise_are_refused(times, message):
    """A curve over contexts would make jumps wrong without a word, so it is an error."""

    class Times:
        def step_seconds(self, batch):
            return times(batch)

    with pytest.raises(ValueError, match=message):
        simulate(fleet(pool(step_times=Times())), Trace([0.0], [5], [5]), seed=0)
