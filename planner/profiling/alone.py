"""Measurements of the endpoint's parts, from which step times are fitted (`fitted_steps.py`)."""

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from planner.errors import EndpointError
from planner.profiling.clock import Clock
from planner.profiling.endpoint import Endpoint
from planner.profiling.load import Request, Sent, send
from planner.profiling.profile import DecodeBatch, LonePrompt, MixedPrompt
from planner.profiling.prompts import PromptMaker

DECODE_TOKENS = 64
"""Answer length of a decoding batch: enough steps after the last prompt is computed."""
FEWEST_STEPS = 8
"""Steps that a decoding batch must share for its time to count."""

_MIXED_AFTER_FRACTION = 0.25
"""How far into its decoding a batch gets a prompt beside it: all have begun, most is to come."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Measures with nobody else on the endpoint."""

    endpoint: Endpoint
    prompts: PromptMaker
    clock: Clock

    async def lone_prompt(self, input_tokens: int, *, repetitions: int) -> LonePrompt:
        """Return the median time to first token of requests that come one after another.

        Raises:
            EndpointError: If one fails.
        """
        times = []
        for _ in range(repetitions):
            (sent,) = await self._burst(1, input_tokens, output_tokens=1)
            times.append(sent.ttft_seconds)
        return LonePrompt(
            input_tokens=input_tokens,
            ttft_seconds=statistics.median(times),
            num_requests=repetitions,
        )

    async def decode_batch(
        self, sequences: int, input_tokens: int, *, repetitions: int
    ) -> DecodeBatch | int:
        """Return the time of a step in which so many sequences decode and nothing else happens.

        Returns:
            The batch. Where they share fewer than `FEWEST_STEPS` steps, how many had begun when the
            first one ended: fewer than asked for is what the endpoint runs at once; all of them says
            that answers are too short or come in too few pieces to tell a step's time.

        Raises:
            EndpointError: If a request fails.
        """
        seconds, contexts = [], []
        for _ in range(repetitions):
            burst = await self._burst(sequences, input_tokens, output_tokens=DECODE_TOKENS)
            shared = _shared_steps(burst)
            if shared is None:
                return _num_together(burst)
            seconds.append(shared[0])
            contexts.append(shared[1])
        return DecodeBatch(
            sequences=sequences,
            input_tokens=input_tokens,
            context_tokens=statistics.mean(contexts),
            step_seconds=statistics.median(seconds),
            num_repetitions=repetitions,
        )

    async def mixed_prompt(
        self, sequences: int, input_tokens: int, prompt_tokens: int, *, repetitions: int
    ) -> MixedPrompt | None:
        """Return the time of steps in which a prompt is computed beside decoding sequences.

        When the sequences decode is seen from a burst without the prompt.

        Args:
            sequences: How many decode.
            input_tokens: Length of their prompts.
            prompt_tokens: Length of the prompt that comes while they decode.
            repetitions: How often it is measured.

        Returns:
            Nothing where a sequence had ended first, or no answer came token by token.

        Raises:
            EndpointError: If a request fails.
        """
        decoding = await self._burst(sequences, input_tokens, output_tokens=DECODE_TOKENS)
        first, last = _shared_span(decoding)
        arrival = first + (last - first) * _MIXED_AFTER_FRACTION
        bursts = [
            await self._burst(
                sequences, input_tokens, output_tokens=DECODE_TOKENS, then=(arrival, prompt_tokens)
            )
            for _ in range(repetitions)
        ]
        windows = [
            (sent.answer, *_steps_around(sent, burst[-1]))
            for burst in bursts
            for sent in burst[:-1]
            # Text that comes late, as behind half a character, tells no step.
            if len(sent.answer.token_seconds) == sent.answer.output_tokens
        ]
        # One number of steps for all, so that their median means something.
        steps = max((stop - start for _, start, stop in windows), default=0)
        seconds, contexts = [], []
        for answer, start, _ in windows:
            times = answer.token_seconds
            if start < 0 or start + steps >= len(times):
                return None
            seconds.append(times[start + steps] - times[start])
            contexts.append(answer.input_tokens + start + (steps + 1) / 2)
        if not seconds:
            return None
        return MixedPrompt(
            sequences=sequences,
            context_tokens=statistics.mean(contexts),
            prompt_tokens=prompt_tokens,
            decode_steps=steps,
            seconds=statistics.median(seconds),
            num_repetitions=repetitions,
        )

    async def _burst(
        self,
        count: int,
        input_tokens: int,
        *,
        output_tokens: int,
        then: tuple[float, int] | None = None,
    ) -> list[Sent]:
        """Send requests at once, and `then`, at that second, a prompt of that length for a token."""
        requests = [
            Request(0.0, self.prompts.make(input_tokens), output_tokens) for _ in range(count)
        ]
        if then is not None:
            requests.append(Request(then[0], self.prompts.make(then[1]), 1))
        burst = await send(self.endpoint, requests, clock=self.clock)
        failure = next((each.answer.failure for each in burst if each.answer.failure), None)
        if failure is not None:
            raise EndpointError(f"{self.endpoint.url}: a request failed ({failure})")
        return burst


def _shared_steps(burst: Sequence[Sent]) -> tuple[float, float] | None:
    """Return seconds of a step and mean context while all of a burst decode; nothing: never."""
    first, last = _shared_span(burst)
    seconds, contexts = [], []
    for each in burst:
        times = each.answer.token_seconds
        start, stop = bisect_left(times, first), bisect_right(times, last) - 1
        if stop - start < FEWEST_STEPS:
            return None
        tokens_per_piece = each.answer.output_tokens / len(times)
        seconds.append((times[stop] - times[start]) / (stop - start) / tokens_per_piece)
        contexts.append(each.answer.input_tokens + (start + stop + 1) / 2 * tokens_per_piece)
    return statistics.mean(seconds), statistics.mean(contexts)


def _shared_span(burst: Sequence[Sent]) -> tuple[float, float]:
    """Return when the last of a burst had begun, and when the first one ended."""
    first = max(each.answer.token_seconds[0] for each in burst)
    return first, min(each.answer.token_seconds[-1] for each in burst)


def _steps_around(decoding: Sent, prompt: Sent) -> tuple[int, int]:
    """Return the last token before a prompt came and the first one that came with its own or later.

    Either may lie outside the answer.
    """
    times = decoding.answer.token_seconds
    start = bisect_right(times, prompt.arrival_seconds) - 1
    return start, bisect_left(times, prompt.answer.token_seconds[0])


def _num_together(burst: Sequence[Sent]) -> int:
    """Return how many sequences had begun when the first one ended, itself among them."""
    first_end = min(each.answer.token_seconds[-1] for each in burst)
    return sum(each.answer.token_seconds[0] <= first_end for each in burst)
