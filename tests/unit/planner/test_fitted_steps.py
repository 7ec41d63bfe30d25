"""Step times from a profile; that they come back exactly stands in `test_profiling.py`."""

from dataclasses import replace

import pytest

from planner.errors import ProfileError
from planner.profiling.fitted_speed import fitted_speed
from planner.profiling.fitted_steps import FittedStepTimes, fitted_replica
from planner.profiling.profile import Cell, DecodeBatch, LonePrompt, ObservedLimits
from planner.profiling.profile_assembly import ReplicaFacts, assembled
from planner.speed.step_times import StepBatch

STEPS = FittedStepTimes((1, 4, 8), (0.01, 0.04, 0.06), 0.0, 0.001, 0.0)
FACTS = ReplicaFacts(gpu="g", model="m", date="2025-01-01")


def _profile(prompts, batches):
    return assembled(
        FACTS,
        {(64, 16): Cell()},
        lone_prompts=tuple(
            LonePrompt(input_tokens=n, ttft_seconds=seconds, num_requests=1)
            for n, seconds in prompts
        ),
        decode_batches=tuple(
            DecodeBatch(
                sequences=n,
                input_tokens=tokens,
                context_tokens=tokens,
                step_seconds=seconds,
                num_repetitions=1,
            )
            for n, tokens, seconds in batches
        ),
    )


PROMPTS = [(10, 0.02), (20, 0.03), (40, 0.05)]
BATCHES = [(1, 10, 0.01), (1, 50, 0.01), (4, 10, 0.02), (4, 50, 0.02)]


@pytest.mark.parametrize(
    ("sequences", "seconds"),
    [(0, 0.01), (1, 0.01), (2, 0.02), (4, 0.04), (6, 0.05), (8, 0.06), (12, 0.08)],
)
def test_batches_between_the_knots_lie_on_lines(sequences, seconds):
    """Flat below one sequence, linear between knots, and on as before beyond the last."""
    assert STEPS.step_seconds(StepBatch(0, 0, sequences, 0)) == pytest.approx(seconds)


def test_prompts_add_to_a_step():
    """A mixed step takes what its decoding takes and what its prompts take."""
    assert STEPS.step_seconds(StepBatch(30, 465, 4, 400)) == pytest.approx(0.07)


def test_a_step_with_both_costs_its_surcharge():
    """Neither decoding alone nor prompts alone pay it."""
    steps = replace(STEPS, mixed_seconds=0.5)
    assert steps.step_seconds(StepBatch(30, 465, 4, 400)) == pytest.approx(0.57)
    assert steps.step_seconds(StepBatch(0, 0, 4, 400)) == pytest.approx(0.04)
    assert steps.step_seconds(StepBatch(30, 465, 0, 0)) == pytest.approx(0.04)


def test_repeats_are_collapsed_to_their_median():
    """One repetition that something disturbed changes nothing."""
    calm = fitted_replica(_profile(PROMPTS * 3, BATCHES * 3))
    disturbed = fitted_replica(
        _profile(
            [*PROMPTS * 2, (10, 9.0), *PROMPTS[1:]], [*BATCHES * 2, (1, 10, 9.0), *BATCHES[1:]]
        )
    )
    assert disturbed == calm


def test_chunked_prompts_count_a_step_a_chunk():
    """Where the engine cuts prompts, long ones pay the step's constant several times."""
    prompts = [(n, 0.01 * -(-n // 16) + 0.001 * n) for n in (8, 16, 32, 48, 64)]
    fitted = fitted_replica(_profile(prompts, BATCHES), most_prefill_tokens=16)
    assert fitted.worst_relative_error < 1e-9
    assert fitted.step_times.prefill_token_seconds == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("prompts", "batches"),
    [
        (PROMPTS[:2], BATCHES),
        (PROMPTS, BATCHES[:2]),
        (PROMPTS, [(1, 10, 0.01), (4, 10, 0.02)]),
        ([], []),
    ],
)
def test_too_few_measurements_are_refused(prompts, batches):
    """What is there and what a fit takes is said."""
    with pytest.raises(ProfileError, match="a fit takes 3, and 2 at 2 contexts"):
        fitted_replica(_profile(prompts, batches))


def test_a_profile_without_a_sequence_alone_is_refused():
    """The constant of a step would be a guess."""
    with pytest.raises(ProfileError, match="no decoding sequence alone"):
        fitted_replica(_profile(PROMPTS, [(n + 1, *rest) for n, *rest in BATCHES]))


def test_a_profiled_replica_has_its_observed_limits():
    """What is given comes before what was observed; what is neither is asked for."""
    limits = ObservedLimits(max_sequences=8, kv_capacity_tokens=4096)
    profile = _profile(PROMPTS, BATCHES).model_copy(update={"limits": limits})
    speed = fitted_speed(
        profile, max_batched_tokens=512, kv_capacity_tokens=1000, max_context_tokens=100
    )
    assert (speed.max_sequences, speed.kv_capacity_tokens) == (8, 1000)
    assert (speed.max_context_tokens, speed.max_batched_tokens) == (100, 512)
    with pytest.raises(ProfileError, match="did not observe max_context_tokens; give what"):
        fitted_speed(profile, max_batched_tokens=512)
