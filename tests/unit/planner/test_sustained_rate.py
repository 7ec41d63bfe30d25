"""The highest rate a replica holds: by hand, its obstacles, and that looser limits never lower it."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.coefficients import built_in_coefficients
from planner.hardware.find_model import find_model
from planner.speed.obstacle import Obstacle
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_speed import ReplicaSpeed, replica_speed
from planner.speed.steady_state import SteadyStream
from planner.speed.sustained_rate import LatencyLimits, sustained_rate, throughput_table

CATALOGUE = built_in_catalogue()
COEFFICIENTS = built_in_coefficients()
NO_LIMITS = LatencyLimits()


@dataclass(frozen=True)
class AffineTimes:
    """A step's seconds: fixed, for each prompt token, and for each decoding sequence."""

    fixed: float = 0.1
    prompt: float = 0.0
    decode: float = 0.0

    def step_seconds(self, batch):
        """Return the sum."""
        return (
            self.fixed + self.prompt * batch.prefill_tokens + self.decode * batch.decode_sequences
        )


SPEED = ReplicaSpeed(
    step_times=AffineTimes(),
    kv_capacity_tokens=100_000,
    max_context_tokens=10_000,
    max_sequences=20,
    max_batched_tokens=1000,
)


def _rate(speed=SPEED, inputs=100, outputs=101, limits=NO_LIMITS):
    return sustained_rate(speed, input_tokens=inputs, output_tokens=outputs, limits=limits)


def _real(gpu="A100-80GB", model="meta-llama/Llama-3.1-8B-Instruct", **fields):
    speed = replica_speed(
        ReplicaDesign(CATALOGUE.gpu(gpu), find_model(model, CATALOGUE), **fields), COEFFICIENTS
    )
    assert not isinstance(speed, Obstacle)
    return speed


def test_steps_of_one_length_by_hand():
    """Steps of 0.1 s, 100 tokens to decode: n sequences at once finish n / 10.1 a second.

    Twenty at once leave room for a mean of 16 and a deviation of 4. Each request is there for
    its prompt's step and 100 more.
    """
    rate = _rate()
    assert rate.binding == "sequences"
    assert rate.running_sequences == pytest.approx(16, rel=1e-4)
    assert rate.requests_per_second == pytest.approx(16 / 10.1, rel=1e-4)
    assert rate.tpot_seconds == pytest.approx(0.1)
    assert rate.obstacle is None


def test_memory_is_a_hard_limit_by_hand():
    """A cache for 4 mean contexts runs fewer than two sequences on average: n + sqrt(n) <= 4."""
    speed = replace(SPEED, kv_capacity_tokens=600)
    rate = _rate(speed)
    assert rate.binding == "memory"
    mean = ((math.sqrt(17) - 1) / 2) ** 2
    assert rate.running_sequences == pytest.approx(mean, rel=0.01)


def test_slow_prompts_end_the_rate_by_hand():
    """Where a prompt token takes 1 ms and nothing else does, ten prompts of 100 fill a second."""
    speed = replace(SPEED, step_times=AffineTimes(fixed=1e-4, prompt=1e-3), max_sequences=1000)
    rate = _rate(speed, outputs=2)
    assert rate.binding == "compute"
    assert rate.requests_per_second == pytest.approx(9.9, rel=1e-3)


def test_a_rate_of_nothing_has_an_obstacle():
    """Where plain steps take no time at all, prompts fill the time at any load that is searched."""
    rate = _rate(replace(SPEED, step_times=AffineTimes(fixed=1e-12, prompt=1e-3)), outputs=2)
    assert rate.requests_per_second == 0
    assert rate.obstacle == Obstacle("compute", "no rate above 0 keeps to its limit on compute")


def test_tpot_ends_the_rate_by_hand():
    """Steps of 10 ms for each sequence: 50 ms allow five at once."""
    speed = replace(SPEED, step_times=AffineTimes(fixed=0.0, decode=0.01))
    rate = _rate(speed, outputs=1001, limits=LatencyLimits(tpot_seconds=0.05))
    assert rate.binding == "tpot"
    assert rate.tpot_seconds == pytest.approx(0.05, rel=1e-3)
    assert rate.requests_per_second == pytest.approx(5 / (1000 * 0.05), rel=1e-3)


def test_a_request_alone():
    """Alone on an idle replica the first token takes its own prompt and the rest a plain step."""
    speed = replace(SPEED, step_times=AffineTimes(fixed=0.1, prompt=0.001, decode=0.02))
    alone = SteadyStream(speed, input_tokens=2500, output_tokens=10).at(0.0)
    assert alone.requests_per_second == 0
    assert alone.tpot_seconds == pytest.approx(0.12)
    assert alone.ttft_seconds == pytest.approx(3 * 1.12)


def test_requests_of_one_token_have_no_tpot():
    """A prompt whose answer is one token leaves nothing to decode, whatever the TPOT limit."""
    rate = _rate(outputs=1, limits=LatencyLimits(tpot_seconds=1e-6))
    assert rate.tpot_seconds == 0
    assert rate.requests_per_second > 0


@pytest.mark.parametrize(
    ("speed", "inputs", "limits", "kind", "text"),
    [
        (SPEED, 9_900, NO_LIMITS, "context", "10001 tokens exceed the model's context of 10000"),
        (
            replace(SPEED, kv_capacity_tokens=150),
            100,
            NO_LIMITS,
            "memory",
            "201 tokens exceed the 150 that the cache holds",
        ),
        (
            SPEED,
            100,
            LatencyLimits(tpot_seconds=0.05),
            "tpot",
            "a request alone has a TPOT of 0.1 s, the limit is 0.05 s",
        ),
        (
            SPEED,
            5000,
            LatencyLimits(ttft_seconds=0.3),
            "ttft",
            "a request alone has a TTFT of 0.5 s, the limit is 0.3 s",
        ),
    ],
)
def test_an_impossible_size_says_why(speed, inputs, limits, kind, text):
    """The rate is 0, never a division by zero, and the reason says the best attainable."""
    rate = _rate(speed, inputs=inputs, limits=limits)
    assert rate.requests_per_second == 0
    assert rate.binding == kind
    assert rate.obstacle is not None
    assert text in rate.obstacle.text


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_limits_that_are_no_times_are_refused(value):
    """A limit of 0 would make everything infeasible without a reason."""
    with pytest.raises(ValueError, match=r"tpot_seconds is .*; give a time above 0, or none"):
        LatencyLimits(tpot_seconds=value)


def test_empty_requests_are_refused():
    """A request has at least one token each way."""
    with pytest.raises(ValueError, match="0 input and 5 output tokens"):
        _rate(inputs=0, outputs=5)


SPEEDS = {
    "dense": _real(),
    "experts": _real("H200", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    "two stages": _real(pipeline_parallel=2),
    "four devices": _real("L4", tensor_parallel=4),
    "host": _real("cpu-xeon-8480"),
}
lengths = st.integers(1, 6000)
times = st.floats(1e-3, 20)


@settings(max_examples=200)
@given(st.sampled_from(sorted(SPEEDS)), lengths, lengths, times, times, st.floats(1, 5))
def test_looser_limits_never_lower_the_rate(name, inputs, outputs, ttft, tpot, factor):
    """Loosening both limits by any factor keeps or raises the rate; both hold where it is above 0."""
    tight = LatencyLimits(ttft_seconds=ttft, tpot_seconds=tpot)
    loose = LatencyLimits(ttft_seconds=ttft * factor, tpot_seconds=tpot * factor)
    low = _rate(SPEEDS[name], inputs, outputs, tight)
    high = _rate(SPEEDS[name], inputs, outputs, loose)
    assert low.requests_per_second <= high.requests_per_second * (1 + 1e-9)
    if low.requests_per_second > 0:
        assert low.ttft_seconds <= ttft
        assert low.tpot_seconds <= tpot


@settings(max_examples=200)
@given(st.sampled_from(sorted(SPEEDS)), lengths, lengths)
def test_every_average_rises_with_the_load(name, inputs, outputs):
    """More requests a step mean a higher rate, longer times and more memory: the search needs it."""
    stream = SteadyStream(SPEEDS[name], input_tokens=inputs, output_tokens=outputs)
    most = stream.most_requests_per_step
    states = [stream.at(most * number / 40) for number in range(40)]
    for field in ("requests_per_second", "ttft_seconds", "tpot_seconds", "high_cached_tokens"):
        values = [getattr(state, field) for state in states]
        for before, after in pairwise(values):
            assert after >= before * (1 - 1e-9), field


def test_a_table_has_a_rate_for_every_size():
    """One call gives an offer's column; sizes that cannot run stand in it with their reason."""
    design = ReplicaDesign(CATALOGUE.gpu("A10G"), find_model("meta-llama/Llama-2-7b-hf", CATALOGUE))
    limits = LatencyLimits(tpot_seconds=0.12)
    sizes = [(100, 100), (1000, 100), (4000, 1000)]
    short, long, too_long = throughput_table(design, COEFFICIENTS, sizes, limits=limits)
    assert short.requests_per_second > long.requests_per_second > 0
    assert too_long.binding == "context"


def test_a_table_of_an_impossible_design_names_its_obstacle():
    """Every size then carries the design's own obstacle and no times."""
    design = ReplicaDesign(CATALOGUE.gpu("L4"), find_model("meta-llama/Llama-2-70b-hf", CATALOGUE))
    (rate,) = throughput_table(design, COEFFICIENTS, [(10, 10)], limits=NO_LIMITS)
    assert (rate.requests_per_second, rate.ttft_seconds) == (0, None)
    assert rate.obstacle is not None
    assert "do not fit 1 x L4" in rate.obstacle.text
