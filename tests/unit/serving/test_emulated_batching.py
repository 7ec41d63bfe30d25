"""The emulated replica's batching against the simulator's, whose rules it follows."""

import random
from itertools import accumulate

import pytest
from serving_fleets import LinearStepTimes, fleet, pool

from planner.simulator import simulate
from planner.speed.replica_speed import ReplicaSpeed
from planner.workloads.trace import Trace
from serving.emulated.batching import BatchedReplica, EmulatedSequence

LIMITS = {"kv_capacity_tokens": 400, "max_sequences": 6, "max_batched_tokens": 64}


def _speed(**changes):
    limits = LIMITS | changes
    return ReplicaSpeed(step_times=LinearStepTimes(), max_context_tokens=1000, **limits)


def _trace(seed, rate):
    draws = random.Random(seed)
    gaps = [draws.expovariate(rate) for _ in range(59)]
    return Trace(
        list(accumulate(gaps, initial=0.0)),
        [draws.randint(1, 150) for _ in range(60)],
        [draws.randint(1, 60) for _ in range(60)],
    )


def _served(replica, trace):
    """Return when each request's first and last token came out."""
    first, last, now, ends_at = {}, {}, 0.0, None
    arrivals = list(enumerate(trace.arrival_seconds))
    while arrivals or ends_at is not None:
        if ends_at is not None and (not arrivals or ends_at <= arrivals[0][1]):
            now = ends_at
            for sequence in replica.end_step():
                first.setdefault(sequence.request_id, now)
                last[sequence.request_id] = now
        else:
            request, now = arrivals.pop(0)
            sizes = trace.input_tokens[request], trace.output_tokens[request]
            replica.add(EmulatedSequence(str(request), *sizes))
            if ends_at is not None:
                continue
        seconds = replica.start_step()
        ends_at = now + seconds if seconds else None
    places = [str(request) for request in range(trace.num_requests)]
    return [first[place] for place in places], [last[place] for place in places]


@pytest.mark.parametrize("rate", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("kv_capacity_tokens", [400, 5000])
def test_tokens_come_out_when_the_simulator_says(rate, kv_capacity_tokens):
    """First and last tokens of every request agree, idle and overloaded, with evictions and without."""
    trace = _trace(seed=round(rate), rate=rate)
    limits = LIMITS | {"kv_capacity_tokens": kv_capacity_tokens}
    expected = simulate(fleet(pool(**limits)), trace, seed=0)
    replica = BatchedReplica(_speed(kv_capacity_tokens=kv_capacity_tokens))
    first, last = _served(replica, trace)
    assert first == pytest.approx(expected.first_token_seconds, rel=1e-9)
    assert last == pytest.approx(expected.completion_seconds, rel=1e-9)
    assert replica.num_evictions == sum(expected.num_evictions)
    assert (replica.num_evictions > 0) == (rate == 20.0 and kv_capacity_tokens == 400)


def test_a_removed_sequence_frees_its_memory_in_the_middle_of_a_step():
    """Whoever waits behind it is admitted with the next step, and it gets no token any more."""
    replica = BatchedReplica(_speed(max_sequences=1))
    replica.add(EmulatedSequence("gone", 30, 10))
    replica.add(EmulatedSequence("next", 20, 1))
    assert replica.start_step() > 0
    assert replica.kv_tokens == 30
    replica.remove("gone")
    assert replica.end_step() == []
    assert replica.start_step() > 0
    assert [each.request_id for each in replica.end_step()] == ["next"]
    assert replica.start_step() == 0.0
    assert replica.kv_tokens == 0
