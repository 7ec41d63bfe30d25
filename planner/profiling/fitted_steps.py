"""Step times fitted to a profile, so that an endpoint that was measured can be simulated.

    step = base(decoding sequences) + context * their contexts' sum
           + token * prompt tokens + pair * query-key pairs of the prompts        every term >= 0

`base` is piecewise linear and never falls, with a knot at every batch size that was measured, as the
second sequence may cost more than the sixteenth; below one sequence it is flat, beyond the last knot
it goes on as before.

What identifies the terms: batches that decode alone, at several sizes and contexts, are steps
without prompts; requests that have the endpoint to themselves, at several prompt lengths, are steps
without decoding. Their times hold one more term, what a request costs outside the steps (network,
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
from planner.profiling.profile import DecodeBatch, LonePrompt, Profile
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

    def step_seconds(self, batch: StepBatch) -> float:
        """Return the seconds the step takes."""
        return (
            self._base(batch.decode_sequences)
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
    """Fitted against measured: prompt lengths first, then decoding batches, both rising."""

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
    prompts, batches = _prompts(profile.lone_prompts), _batches(profile.decode_batches)
    _check(prompts, batches)
    knots = tuple(sorted({sequences for sequences, _, _ in batches}))
    num_rises = len(knots) - 1
    rows, seconds = [], []
    for tokens, time in prompts:
        num_steps = math.ceil(tokens / most_prefill_tokens) if most_prefill_tokens else 1
        terms = [0.0] * num_rises + [0.0, tokens, tokens * (tokens + 1) / 2, 1.0]
        rows.append([num_steps, *terms])
        seconds.append(time)
    for sequences, context, time in batches:
        terms = [*_segment_weights(knots, sequences), sequences * context, 0.0, 0.0, 0.0]
        rows.append([1.0, *terms])
        seconds.append(time)
    relative = [[a / time for a in row] for row, time in zip(rows, seconds, strict=True)]
    found = nonnegative_fit(relative, [1.0] * len(relative))
    errors = [sum(a * x for a, x in zip(row, found, strict=True)) - 1 for row in relative]
    base, context, token, pair, overhead = found[: num_rises + 1], *found[num_rises + 1 :]
    if base[0] <= 0:
        raise ProfileError(
            "by the fit a step of one sequence takes no time; profile the endpoint again"
        )
    step_times = FittedStepTimes(knots, _running_sum(base), context, token, pair)
    return FittedReplica(step_times, overhead, tuple(errors))


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
