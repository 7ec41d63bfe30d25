"""Latencies of answers, as Prometheus reads them."""

import asyncio
import contextlib

import pytest

from serving.request_times import BOUNDS_SECONDS, RequestTimes


@pytest.fixture
def clock():
    """Return a list whose only number is the time."""
    return [100.0]


@pytest.fixture
def times(clock):
    return RequestTimes("m", now=lambda: clock[0])


def samples(times):
    """Return the values of all samples by name and labels beside the model's."""
    found = {}
    for family in times.collect():
        for sample in family.samples:
            labels = tuple(v for k, v in sample.labels.items() if k != "model_name")
            found[sample.name, *labels] = sample.value
    return found


def test_an_answer_is_timed_from_arrival_to_end(times, clock):
    """Three messages of 1, 2 and 1 tokens: first token, two gaps, mean gap of three, whole."""
    watch = times.watch(99.0)
    watch.take(1, None)
    clock[0] = 100.2
    watch.take(2, None)
    clock[0] = 100.6
    watch.take(1, "stop")
    found = samples(times)
    assert found["vllm:time_to_first_token_seconds_count",] == 1
    assert found["vllm:time_to_first_token_seconds_sum",] == pytest.approx(1.0)
    assert found["vllm:inter_token_latency_seconds_count",] == 2
    assert found["vllm:inter_token_latency_seconds_sum",] == pytest.approx(0.6)
    assert found["vllm:inter_token_latency_seconds_bucket", "0.25"] == 1
    assert found["vllm:inter_token_latency_seconds_bucket", "+Inf"] == 2
    assert found["vllm:request_time_per_output_token_seconds_sum",] == pytest.approx(0.2)
    assert found["vllm:e2e_request_latency_seconds_sum",] == pytest.approx(1.6)
    assert found["vllm:request_success_total", "stop"] == 1


def test_a_last_message_without_tokens_ends_the_answer_alone(times, clock):
    """It is no gap between tokens, and one token has none."""
    watch = times.watch(100.0)
    watch.take(1, None)
    clock[0] = 101.0
    watch.take(0, "length")
    found = samples(times)
    assert found["vllm:inter_token_latency_seconds_count",] == 0
    assert found["vllm:request_time_per_output_token_seconds_count",] == 0
    assert found["vllm:request_success_total", "length"] == 1


def test_buckets_rise_and_hold_what_is_above_them_all(times, clock):
    """A value on a bound belongs to it."""
    assert list(BOUNDS_SECONDS) == sorted(BOUNDS_SECONDS)
    times.watch(100.0 - BOUNDS_SECONDS[-1]).take(1, None)
    times.watch(100.0 - 2 * BOUNDS_SECONDS[-1]).take(1, None)
    found = samples(times)
    assert found["vllm:time_to_first_token_seconds_bucket", str(BOUNDS_SECONDS[-1])] == 1
    assert found["vllm:time_to_first_token_seconds_bucket", "+Inf"] == 2
    assert b"vllm:time_to_first_token_seconds_bucket{" in times.exposition()


def test_reasons_are_vllms(times):
    """A call of a tool is a stop; an answer that is left is an abort, one that fails is none."""
    times.watch(100.0).take(1, "tool_calls")
    with times.watch(100.0) as watch:
        watch.take(1, "length")
    for error in (GeneratorExit, asyncio.CancelledError, RuntimeError):
        with contextlib.suppress(error), times.watch(100.0) as watch:
            watch.take(1, None)
            raise error
    assert times.finished == {"stop": 1, "length": 1, "abort": 2}
