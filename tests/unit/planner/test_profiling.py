"""The load generator, in virtual time against a replica whose steps are known."""

import random
from dataclasses import replace

import pytest
from virtual_endpoint import VirtualEndpoint, virtual_run

from planner.errors import EndpointError
from planner.profiling.alone import Alone
from planner.profiling.fitted_steps import FittedStepTimes, fitted_replica
from planner.profiling.load import Request, poisson_arrivals, send, summary
from planner.profiling.measure import Measurement, Settings
from planner.profiling.profile import LatencySummary, Run
from planner.profiling.profile_assembly import ReplicaFacts
from planner.profiling.profile_reading import is_saturated
from planner.profiling.prompts import PromptMaker
from planner.profiling.search import next_searched_rate
from planner.simulator import ReplicaPool, ServingFleet, SizeShares, simulate
from planner.workloads.trace import Trace

FACTS = ReplicaFacts(gpu="cpu-host", model="tiny", date="2025-01-01")
STEPS = FittedStepTimes(
    knots=(1, 2, 4, 8),
    base_seconds=(0.01, 0.016, 0.02, 0.03),
    decode_context_token_seconds=1e-6,
    prefill_token_seconds=2e-4,
    prefill_pair_seconds=1e-7,
    mixed_seconds=0.006,
)
SETTINGS = Settings(
    input_tokens=(64, 256), output_tokens=(16,), most_sequences=16, run_seconds=4.0, repetitions=1
)


class _Buffering(VirtualEndpoint):
    """Sends every answer in one piece."""

    async def complete(self, prompt, *, max_tokens):
        answer = await super().complete(prompt, max_tokens=max_tokens)
        return replace(answer, token_seconds=answer.token_seconds[-1:])


def _measure(settings=SETTINGS, kept=None, told=None, replica=VirtualEndpoint, **endpoint):
    async def work(clock):
        measurement = Measurement(
            replica(clock, STEPS, **endpoint),
            FACTS,
            settings,
            clock=clock,
            keep=(kept if kept is not None else []).append,
            on_progress=lambda *words: (told if told is not None else []).append(words),
        )
        return await measurement.run()

    return virtual_run(work)


def test_a_fit_to_a_profile_finds_the_steps_of_the_replica():
    """Every term comes back, also what a request costs outside the steps."""
    fitted = fitted_replica(_measure(overhead_seconds=0.005))
    assert fitted.step_times.knots == STEPS.knots
    assert fitted.step_times.base_seconds == pytest.approx(STEPS.base_seconds, rel=1e-6)
    for name in ("decode_context_token", "prefill_token", "prefill_pair", "mixed"):
        name = f"{name}_seconds"
        assert getattr(fitted.step_times, name) == pytest.approx(getattr(STEPS, name), rel=1e-4)
    assert fitted.request_overhead_seconds == pytest.approx(0.005, rel=1e-6)
    assert fitted.worst_relative_error < 1e-6


def test_the_simulator_predicts_what_the_load_generator_measures():
    """Profile, fit, simulate, replay: each request's times agree on sizes never profiled."""
    draws = random.Random(3)
    arrivals = poisson_arrivals(9.0, 150, draws)
    arrivals = [each - arrivals[0] for each in arrivals]
    inputs = [draws.randint(5, 300) for _ in arrivals]
    outputs = [draws.randint(1, 40) for _ in arrivals]
    fitted = fitted_replica(_measure(), most_prefill_tokens=None)

    async def replay(clock):
        replica = VirtualEndpoint(clock, STEPS)
        requests = [
            Request(at, [1] * length, output)
            for at, length, output in zip(arrivals, inputs, outputs, strict=True)
        ]
        return await send(replica, requests, clock=clock)

    sent = virtual_run(replay)
    pool = ReplicaPool("a", "here", 1, fitted.step_times, 10**9, 8, 10**9)
    fleet = ServingFleet((pool,), {"tiny": SizeShares((300,), ((1.0,),))})
    result = simulate(fleet, Trace(tuple(arrivals), tuple(inputs), tuple(outputs)), seed=0)
    assert [each.ttft_seconds for each in sent] == pytest.approx(result.ttft_seconds(), rel=1e-4)
    tpot = [each.tpot_seconds for each in sent if each.tpot_seconds is not None]
    assert tpot == pytest.approx(result.tpot_seconds(), rel=1e-4)


def test_a_profile_holds_every_run_up_to_saturation():
    """Rates are searched: all but the ones above the limit keep pace, and limits are noted."""
    profile = _measure()
    assert (profile.input_tokens, profile.output_tokens) == ((64, 256), (16,))
    assert profile.limits.max_sequences == 8
    assert profile.limits.kv_capacity_tokens == 4096
    assert (profile.engine, profile.engine_version) == ("virtual", "1.2")
    for row, tokens in zip(profile.cells, profile.input_tokens, strict=True):
        runs = row[0].runs
        saturated = [run.offered_requests_per_second for run in runs if is_saturated(run)]
        held = [run.offered_requests_per_second for run in runs if not is_saturated(run)]
        assert saturated
        assert held
        assert max(held) < min(saturated) <= 1.2 * max(held)
        for run in runs:
            assert (run.mean_input_tokens, run.mean_output_tokens) == (tokens, 16)
            assert run.num_failures == 0
            assert run.achieved_requests_per_second <= run.offered_requests_per_second
            assert run.token_gap is not None
            assert run.ttft.p50_seconds <= run.ttft.p99_seconds


def test_listed_rates_are_offered_until_one_saturates():
    """The rates behind it would say the same."""
    settings = Settings(
        input_tokens=(64,),
        output_tokens=(16,),
        rates_requests_per_second=(1.0, 2.0, 1000.0, 2000.0),
        run_seconds=0.1,
        most_sequences=2,
    )
    (cell,) = _measure(settings).cells[0]
    assert [run.offered_requests_per_second for run in cell.runs] == [1.0, 2.0, 1000.0]


def test_no_two_measurements_send_the_same_prompts():
    """An endpoint that still holds the first one's prompts would skip computing the second's."""
    sent = []

    class Recording(VirtualEndpoint):
        async def complete(self, prompt, *, max_tokens):
            sent.append(tuple(prompt))
            return await super().complete(prompt, max_tokens=max_tokens)

    for _ in range(2):
        _measure(replica=Recording)
    assert len(set(sent)) == len(sent)


def test_a_prompt_that_waited_until_the_decoding_ended_says_nothing():
    """Where sequences run one after the other no step is mixed."""

    async def work(clock):
        replica = VirtualEndpoint(clock, STEPS, max_sequences=1)
        alone = Alone(replica, PromptMaker(replica), clock)
        return await alone.mixed_prompt(1, 32, 64, repetitions=2)

    assert virtual_run(work) is None


def test_answers_in_a_few_pieces_are_no_limit(caplog):
    """One sequence that comes in eight pieces tells no step and no limit; the rates are still taken."""
    profile = _measure(tokens_per_piece=10)
    assert profile.limits.max_sequences is None
    assert profile.decode_batches == ()
    assert profile.cells[0][0].runs
    skipped = [record.getMessage() for record in caplog.records]
    assert [line.split()[:2] for line in skipped] == [["decoding_batch_skipped", "sequences=1"]]
    assert "shared fewer than 8 steps" in skipped[0]


def test_answers_in_one_piece_are_no_limit():
    """Nor is a sequence whose text comes all at once, at its end: it ran, beside nobody."""
    assert _measure(replica=_Buffering).limits.max_sequences is None


def test_every_stage_is_kept_and_told():
    """The last profile kept is the result; progress counts up to its total."""
    kept, told = [], []
    profile = _measure(kept=kept, told=told)
    assert kept[-1] == profile
    assert len(kept) == len(told)
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert all(done < total for _, done, total in told)


def test_what_was_measured_survives_a_failing_endpoint():
    """The failure is raised, the stages before it are kept."""
    kept = []
    with pytest.raises(EndpointError, match=r"a request failed \(scripted"):
        _measure(kept=kept, fails_at=12)
    assert kept[-1].lone_prompts
    assert kept[-1].cells[0][0].runs == ()


def test_a_bounded_client_counts_its_own_queue_as_latency():
    """With one request open at a time, those that are due wait, and their wait is in the TTFT."""

    async def work(clock):
        replica = VirtualEndpoint(clock, STEPS)
        requests = [Request(0.0, [1] * 64, 4) for _ in range(5)]
        return await send(replica, requests, clock=clock, max_in_flight=1)

    waits = [each.ttft_seconds for each in virtual_run(work)]
    assert waits == sorted(waits)
    assert waits[4] == pytest.approx(waits[0] + 4 * (waits[1] - waits[0]))


def test_poisson_arrivals_offer_exactly_the_rate():
    """As many arrivals as the rate gives in the time, in order, by the seed."""
    arrivals = poisson_arrivals(4.0, 100, random.Random(1))
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == 100
    assert arrivals[0] >= 0
    assert arrivals[-1] <= 25
    assert arrivals == poisson_arrivals(4.0, 100, random.Random(1))


def test_a_summary_counts_failures_and_leaves_them_out_of_latency():
    """Failed requests are in the count, not in the statistics; the first tenth is in neither."""

    async def work(clock):
        replica = VirtualEndpoint(clock, STEPS, fails_at=29)
        requests = [Request(float(second), [1] * 64, 4) for second in range(30)]
        return await send(replica, requests, clock=clock)

    sent = virtual_run(work)
    run = summary(sent, offered_requests_per_second=1.0, max_in_flight=None, source="test")
    assert (run.num_requests, run.num_failures) == (27, 2)
    assert run.ttft.p50_seconds == pytest.approx(sent[0].ttft_seconds)
    assert run.achieved_requests_per_second == pytest.approx(1.0)


def test_a_run_without_answers_says_why():
    """Nothing can be summed up; the first reason is named."""

    async def work(clock):
        replica = VirtualEndpoint(clock, STEPS, fails_at=1)
        return await send(replica, [Request(0.0, [1], 4)] * 20, clock=clock)

    with pytest.raises(EndpointError, match=r"18 of 18 requests failed at 2 .* with: scripted"):
        summary(
            virtual_run(work), offered_requests_per_second=2.0, max_in_flight=None, source="test"
        )


@pytest.mark.parametrize("capacity", [0.01, 0.3, 1.0, 3.7, 250.0])
def test_the_search_ends_close_to_saturation_from_either_side(capacity):
    """Whatever the endpoint holds, the last rates around it are within a fifth of each other."""
    runs = []
    while (rate := next_searched_rate(0.5, runs)) is not None:
        runs.append(_run(rate, min(rate, capacity)))
        assert len(runs) < 24
    saturated = [run.offered_requests_per_second for run in runs if is_saturated(run)]
    held = [run.offered_requests_per_second for run in runs if not is_saturated(run)]
    assert max(held) < min(saturated) <= 1.2 * max(held)
    assert max(held) <= capacity / 0.9


@pytest.mark.parametrize("capacity", [0.3, 3.7])
def test_the_search_does_not_climb_where_the_endpoint_refuses(capacity):
    """Requests refused at once keep pace: the failures end the doubling, close to what is held."""
    runs = []
    while (rate := next_searched_rate(0.5, runs)) is not None:
        runs.append(_run(rate, rate, num_failures=int(rate > capacity)))
    refused = [run.offered_requests_per_second for run in runs if run.num_failures]
    held = [run.offered_requests_per_second for run in runs if not run.num_failures]
    assert max(refused) < 4 * capacity
    assert max(held) <= capacity < min(refused) <= 1.2 * max(held)


def _run(offered, achieved, **others):
    return Run(
        offered_requests_per_second=offered,
        achieved_requests_per_second=achieved,
        num_requests=20,
        duration_seconds=1,
        mean_input_tokens=1,
        mean_output_tokens=1,
        ttft=LatencySummary(),
        source="test",
        **others,
    )
