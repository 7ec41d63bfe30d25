"""Step times fitted to a profile, so that an endpoint that was measured can be simulated.

    step = base(decoding sequences) + context * their contexts' sum
           + token * prompt tokens + pair * query-key pairs of the prompts
           + mixed, where it both decodes and computes prompts                    every term >= 0

`base` is piecewise linear and never falls, with a knot at every batch size that was measured, as the
second sequence may cost more than the sixteenth; below one sequence it is flat, beyond the last knot
it goes on as before.

What identifies the terms: batches that decode alone, at several sizes and contexts, are steps
without prompts; requests that have the endpoint to themselves, at several prompt lengths, are steps
without decoding; prompts that come to a decoding batch show what both together cost beyond the sum,
since decoding rows and prompts mostly run in kernels of their own. Times of lone requests hold one more term, what a request costs outside the steps (network,
parsing, tokenising, the first byte's way back); it is fitted beside the others, and the simulator
adds it to times to first token. Repeats are collapsed to their median; residuals are relative, so
that short steps count as much as long ones.
"""

import math
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.errors import ProfileError
from planner.profiling.nonnegative_fit import nonnegative_fit
from planner.profiling.profile import DecodeBatch, LonePrompt, MixedPrompt, Profile
from planner.speed.step_times import StepBatch

FEWEST_LENGTHS = 3
"""Prompt lengths that tell the two prompt terms and the overhead apart."""
FEWEST_CONTEXTS = 2
FEWEST_BATCHES = 2
"""Contexts and sizes of decoding batches that tell the other terms apart."""


@dataclass(frozen=True, slots=True)
class FittedStepTimes:
    """`StepTimes` that follow measured batches."""

    knots: tuple[int, ...]
    """Decoding sequences at which `base_seconds` is known, rising from 1."""
    base_seconds: tuple[float, ...]
    """Of a step with so many decoding sequences, contexts apart; never falling."""
    decode_context_token_seconds: float
    prefill_token_seconds: float
    prefill_pair_seconds: float
    mixed_seconds: float = 0.0
    """Of a step with both, beyond what they take apart."""

    def step_seconds(self, batch: StepBatch) -> float:
        """Return the seconds the step takes."""
        is_mixed = batch.prefill_tokens > 0 and batch.decode_sequences > 0
        return (
            self._base(batch.decode_sequences)
            + self.mixed_seconds * is_mixed
            + self.decode_context_token_seconds * batch.decode_context_tokens
            + self.prefill_token_seconds * batch.prefill_tokens
            + self.prefill_pair_seconds * batch.prefill_pairs
        )

    def _base(self, sequences: float) -> float:
        weights = _segment_weights(self.knots, sequences)
        rises = (after - before for before, after in pairwise(self.base_seconds))
        return self.base_seconds[0] + sum(w * rise for w, rise in zip(weights, rises, strict=True))


@dataclass(frozen=True, slots=True)
class FittedReplica:
    """One replica as fitted."""

    step_times: FittedStepTimes
    request_overhead_seconds: float
    """Beside its steps, until the client has the first token."""
    relative_errors: tuple[float, ...]
    """Fitted against measured: prompt lengths, decoding batches, prompts beside them, each rising."""

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
        profile: With measurements for fitting, as `motley plan profile URL` takes them; without
            prompts beside decoding, steps with both cost the sum.
        most_prefill_tokens: Prompt tokens of one step, where the engine cuts prompts into chunks;
            nothing: it computes whole prompts.

    Raises:
        ProfileError: If the profile holds too few of them.
    """
    prompts, batches = _prompts(profile.lone_prompts), _batches(profile.decode_batches)
    _check(prompts, batches)
    knots = tuple(sorted({sequences for sequences, _, _ in batches}))
    rows, seconds = [], []
    for tokens, time in prompts:
        chunks = _chunks(tokens, most_prefill_tokens)
        idle = [0.0] * (len(knots) - 1)
        rows.append([chunks, *idle, 0.0, tokens, _pairs(tokens), 0.0, 1.0])
        seconds.append(time)
    for sequences, context, time in batches:
        weights = _segment_weights(knots, sequences)
        rows.append([1.0, *weights, sequences * context, 0.0, 0.0, 0.0, 0.0])
        seconds.append(time)
    for (sequences, tokens, steps), context, time in _mixed(profile.mixed_prompts):
        weights = [steps * weight for weight in _segment_weights(knots, sequences)]
        chunks = min(steps, _chunks(tokens, most_prefill_tokens))
        contexts = steps * sequences * context
        rows.append([steps, *weights, contexts, tokens, _pairs(tokens), chunks, 0.0])
        seconds.append(time)
    relative = [[a / time for a in row] for row, time in zip(rows, seconds, strict=True)]
    found = nonnegative_fit(relative, [1.0] * len(relative))
    errors = [sum(a * x for a, x in zip(row, found, strict=True)) - 1 for row in relative]
    if found[0] <= 0:
        raise ProfileError(
            "by the fit a step of one sequence takes no time; profile the endpoint again"
        )
    base, (*terms, overhead) = found[: len(knots)], found[len(knots) :]
    step_times = FittedStepTimes(knots, _running_sum(base), *terms)
    return FittedReplica(step_times, overhead, tuple(errors))


def _chunks(tokens: int, most_prefill_tokens: int | None) -> int:
    """Return the steps that compute a prompt."""
    return math.ceil(tokens / most_prefill_tokens) if most_prefill_tokens else 1


def _pairs(tokens: int) -> float:
    return tokens * (tokens + 1) / 2


def _prompts(measured: Iterable[LonePrompt]) -> list[tuple[int, float]]:
    """Return length and median seconds, by rising length."""
    times: dict[int, list[float]] = defaultdict(list)
    for each in measured:
        times[each.input_tokens].append(each.ttft_seconds)
    return [(length, statistics.median(times[length])) for length in sorted(times)]


def _batches(measured: Iterable[DecodeBatch]) -> list[tuple[int, float, float]]:
    """Return sequences, mean context and median seconds, by rising size and prompt length."""
    repeats: dict[tuple[int, int], list[DecodeBatch]] = defaultdict(list)
    for each in measured:
        repeats[each.sequences, each.input_tokens].append(each)
    return [
        (
            key[0],
            statistics.mean(each.context_tokens for each in repeats[key]),
            statistics.median(each.step_seconds for each in repeats[key]),
        )
        for key in sorted(repeats)
    ]


def _mixed(
    measured: Iterable[MixedPrompt],
) -> list[tuple[tuple[int, int, int], float, float]]:
    """Return `(sequences, prompt tokens, steps)`, mean context and median seconds, rising."""
    repeats: dict[tuple[int, int, int], list[MixedPrompt]] = defaultdict(list)
    for each in measured:
        repeats[each.sequences, each.prompt_tokens, each.decode_steps].append(each)
    return [
        (
            key,
            statistics.mean(each.context_tokens for each in repeats[key]),
            statistics.median(each.seconds for each in repeats[key]),
        )
        for key in sorted(repeats)
    ]


def _check(
    prompts: Sequence[tuple[int, float]], batches: Sequence[tuple[int, float, float]]
) -> None:
    sizes = {sequences for sequences, _, _ in batches}
    enough = len(prompts) >= FEWEST_LENGTHS and len(sizes) >= FEWEST_BATCHES
    if not enough or len({context for _, context, _ in batches}) < FEWEST_CONTEXTS:
        raise ProfileError(
            f"the profile holds requests alone of {len(prompts)} prompt lengths and decoding "
            f"batches of {len(sizes)} sizes; a fit takes {FEWEST_LENGTHS}, and {FEWEST_BATCHES} at "
            f"{FEWEST_CONTEXTS} contexts: profile the endpoint with `motley plan profile URL`"
        )
    if 1 not in sizes:
        raise ProfileError("the profile holds no decoding sequence alone; profile the endpoint")


def _segment_weights(knots: Sequence[int], sequences: float) -> list[float]:
    """Return how much of the rise between each two knots lies below a number of sequences."""
    last = min(max(bisect_left(knots, sequences), 1), len(knots) - 1)
    weights = [1.0] * last + [0.0] * (len(knots) - 1 - last)
    left, right = knots[last - 1], knots[last]
    weights[last - 1] = max(0.0, (sequences - left) / (right - left))
    return weights


def _running_sum(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(math.fsum(values[: index + 1]) for index in range(len(values)))
