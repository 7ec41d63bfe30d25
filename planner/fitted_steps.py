"""Step times fitted to a profile, so that an endpoint that was measured can be simulated.

    step = constant + token * prompt tokens + pair * query-key pairs of the prompts
           + sequence * decoding sequences + context * their contexts' sum      every term >= 0

What identifies the terms: batches of n sequences that decode alone, at several n and contexts, are
steps without prompts (constant, sequence, context); requests that have the endpoint to themselves,
at several prompt lengths, are steps without decoding (token, pair). Their times hold one more term,
what a request costs outside the steps (network, parsing, tokenising, the first byte's way back); it
is fitted beside the others and must be added to simulated times to first token. Residuals are
relative, so that short steps count as much as long ones.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from planner.errors import ProfileError
from planner.nonnegative_fit import nonnegative_fit
from planner.profile import DecodeBatch, LonePrompt, Profile
from planner.step_times import StepBatch

FEWEST_LENGTHS = 3
"""Prompt lengths that tell the two prompt terms and the overhead apart."""
FEWEST_BATCHES = 3
"""Decoding batches that tell the other three apart, at two sizes and two contexts or more."""


@dataclass(frozen=True, slots=True)
class FittedStepTimes:
    """`StepTimes` that are linear in what a step computes; every field is seconds a unit."""

    constant_seconds: float
    prefill_token_seconds: float
    prefill_pair_seconds: float
    decode_sequence_seconds: float
    decode_context_token_seconds: float

    def step_seconds(self, batch: StepBatch) -> float:
        """Return the seconds the step takes."""
        return (
            self.constant_seconds
            + self.prefill_token_seconds * batch.prefill_tokens
            + self.prefill_pair_seconds * batch.prefill_pairs
            + self.decode_sequence_seconds * batch.decode_sequences
            + self.decode_context_token_seconds * batch.decode_context_tokens
        )


@dataclass(frozen=True, slots=True)
class FittedReplica:
    """One replica as fitted."""

    step_times: FittedStepTimes
    request_overhead_seconds: float
    """Beside its steps, until the client has the first token; add it to simulated TTFT."""
    relative_errors: tuple[float, ...]
    """Fitted against measured, one a measurement, in the profile's order."""

    @property
    def worst_relative_error(self) -> float:
        """Largest deviation from a measurement that was fitted."""
        return max(map(abs, self.relative_errors))

    @property
    def median_relative_error(self) -> float:
        """Median deviation from a measurement that was fitted."""
        return statistics.median(map(abs, self.relative_errors))


def fitted_replica(profile: Profile, *, most_prefill_tokens: int | None = None) -> FittedReplica:
    """Return step times fitted to a profile's lone prompts and decoding batches.

    Args:
        profile: With measurements for fitting, as `motley plan profile URL` takes them.
        most_prefill_tokens: Prompt tokens of one step, where the engine cuts prompts into chunks;
            nothing: it computes whole prompts.

    Raises:
        ProfileError: If the profile holds too few of them.
    """
    _check(profile)
    equations = [*_prompt_equations(profile, most_prefill_tokens), *_decode_equations(profile)]
    rows = [[term / seconds for term in terms] for terms, seconds in equations]
    found = nonnegative_fit(rows, [1.0] * len(rows))
    if not any(found[:-1]):
        raise ProfileError(
            "the profile's steps take no time by the fit; profile the endpoint again"
        )
    errors = [sum(a * x for a, x in zip(row, found, strict=True)) - 1 for row in rows]
    return FittedReplica(FittedStepTimes(*found[:-1]), found[-1], tuple(errors))


def _check(profile: Profile) -> None:
    lengths = {each.input_tokens for each in profile.lone_prompts}
    sizes = {each.sequences for each in profile.decode_batches}
    if len(lengths) < FEWEST_LENGTHS:
        raise ProfileError(
            f"the profile holds requests alone of {len(lengths)} prompt lengths, a fit takes at "
            f"least {FEWEST_LENGTHS}; profile the endpoint with `motley plan profile URL`"
        )
    if len(profile.decode_batches) < FEWEST_BATCHES or len(sizes) < 2:
        raise ProfileError(
            f"the profile holds {len(profile.decode_batches)} decoding batches of {len(sizes)} "
            f"sizes, a fit takes at least {FEWEST_BATCHES} of 2; profile the endpoint with "
            "`motley plan profile URL`"
        )


def _prompt_equations(
    profile: Profile, most_prefill_tokens: int | None
) -> Iterator[tuple[list[float], float]]:
    """Yield steps, tokens, pairs, sequences, contexts, requests; and their seconds."""
    for each in profile.lone_prompts:
        yield _prompt_terms(each, most_prefill_tokens), each.ttft_seconds


def _prompt_terms(each: LonePrompt, most_prefill_tokens: int | None) -> list[float]:
    tokens = each.input_tokens
    num_steps = math.ceil(tokens / most_prefill_tokens) if most_prefill_tokens else 1
    return [num_steps, tokens, tokens * (tokens + 1) / 2, 0.0, 0.0, 1.0]


def _decode_equations(profile: Profile) -> Iterator[tuple[list[float], float]]:
    """Yield the same of one step of each decoding batch."""
    for each in profile.decode_batches:
        yield _decode_terms(each), each.step_seconds


def _decode_terms(each: DecodeBatch) -> list[float]:
    return [1.0, 0.0, 0.0, each.sequences, each.sequences * each.context_tokens, 0.0]
