"""The whole measurement of an endpoint, stage by stage; what is measured is kept after each."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from random import Random

from planner.errors import EndpointError
from planner.profiling.alone import FEWEST_STEPS, Alone
from planner.profiling.clock import Clock
from planner.profiling.endpoint import Endpoint
from planner.profiling.load import FEWEST_REQUESTS, Request, poisson_arrivals, send, summary
from planner.profiling.profile import (
    Cell,
    DecodeBatch,
    LonePrompt,
    MixedPrompt,
    ObservedLimits,
    Profile,
    Run,
)
from planner.profiling.profile_assembly import ReplicaFacts, assembled
from planner.profiling.prompts import PromptMaker
from planner.profiling.search import next_listed_rate, next_searched_rate

logger = logging.getLogger(__name__)

EXPECTED_RUNS = 7
"""Runs a search usually takes for one size; for the progress bar."""
SOURCE = "motley plan profile"


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure, and how long."""

    input_tokens: tuple[int, ...]
    """Rising."""
    output_tokens: tuple[int, ...]
    """Rising."""
    rates_requests_per_second: tuple[float, ...] = ()
    """Rising; none: search for saturation."""
    run_seconds: float = 30.0
    """Length of a run's arrivals, if that makes at least `FEWEST_REQUESTS`."""
    max_in_flight: int = 256
    """Most requests open at once."""
    most_sequences: int = 64
    """Largest decoding batch to try."""
    repetitions: int = 3
    """Of each measurement for step times."""
    seed: int = 0
    """Of arrivals; prompts are new each time, as the endpoint may have cached the last ones."""


@dataclass(slots=True)
class _Found:
    """What is measured so far."""

    lone_prompts: list[LonePrompt] = field(default_factory=list)
    decode_batches: list[DecodeBatch] = field(default_factory=list)
    mixed_prompts: list[MixedPrompt] = field(default_factory=list)
    limits: ObservedLimits = field(default_factory=ObservedLimits)
    runs: dict[tuple[int, int], list[Run]] = field(default_factory=dict)

    def profile(self, facts: ReplicaFacts) -> Profile:
        return assembled(
            facts,
            {size: Cell(runs=tuple(runs)) for size, runs in self.runs.items()},
            lone_prompts=tuple(self.lone_prompts),
            decode_batches=tuple(self.decode_batches),
            mixed_prompts=tuple(self.mixed_prompts),
            limits=self.limits,
        )


class Measurement:
    """Measures one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        facts: ReplicaFacts,
        settings: Settings,
        *,
        clock: Clock,
        keep: Callable[[Profile], None],
        on_progress: Callable[[str, int, int], None],
    ) -> None:
        """Prepare.

        Args:
            endpoint: Not greeted yet.
            facts: Of the replica; engine and version are asked for where they are not given.
            settings: What to measure.
            clock: Time.
            keep: Given the profile after every stage.
            on_progress: Told what comes next, how many stages are done, and of how many.
        """
        self._endpoint = endpoint
        self._facts = facts
        self._settings = settings
        self._clock = clock
        self._keep = keep
        self._on_progress = on_progress
        self._prompts = PromptMaker(endpoint)
        self._random = Random(settings.seed)
        sizes = product(settings.input_tokens, settings.output_tokens)
        self._found = _Found(runs={size: [] for size in sizes})
        self._done = 0
        self._expected = 2 * len(_lone_lengths(settings)) + len(list(_batches(settings)))
        self._expected += len(self._found.runs) * (
            len(settings.rates_requests_per_second) or EXPECTED_RUNS
        )

    async def run(self) -> Profile:
        """Measure everything and return the profile.

        Raises:
            EndpointError: If the endpoint cannot be measured; what was is kept.
        """
        await self._endpoint.greet()
        await self._introduce()
        await self._lone_prompts()
        await self._decode_batches()
        await self._mixed_prompts()
        for size in self._found.runs:
            await self._cell(*size)
        return self._found.profile(self._facts)

    async def _introduce(self) -> None:
        version = await self._endpoint.version()
        card = await self._endpoint.model_card()
        longest = card.get("max_model_len")
        self._facts = replace(
            self._facts,
            engine=self._facts.engine or _word(version.get("engine")),
            engine_version=self._facts.engine_version or _word(version.get("version")),
        )
        self._found.limits = ObservedLimits(
            kv_capacity_tokens=await self._endpoint.cache_tokens(),
            max_context_tokens=longest if isinstance(longest, int) and longest > 0 else None,
        )
        asked = self._settings.input_tokens[-1] + self._settings.output_tokens[-1]
        if self._found.limits.max_context_tokens and asked > self._found.limits.max_context_tokens:
            raise EndpointError(
                f"input and output of {asked} tokens exceed the context of {longest} that "
                f"{self._endpoint.url} names; ask for shorter lengths"
            )

    async def _lone_prompts(self) -> None:
        alone = Alone(self._endpoint, self._prompts, self._clock)
        for length in _lone_lengths(self._settings):
            self._begin(f"alone, {length} tokens")
            await self._prompts.calibrate(length)
            measured = await alone.lone_prompt(length, repetitions=self._settings.repetitions)
            self._found.lone_prompts.append(measured)
            self._end()

    async def _decode_batches(self) -> None:
        alone = Alone(self._endpoint, self._prompts, self._clock)
        most = self._settings.most_sequences
        for sequences, length in _batches(self._settings):
            self._begin(f"decoding, {sequences} x {length} tokens")
            if sequences <= most:
                await self._prompts.calibrate(length)
                repetitions = self._settings.repetitions
                measured = await alone.decode_batch(sequences, length, repetitions=repetitions)
                if isinstance(measured, DecodeBatch):
                    self._found.decode_batches.append(measured)
                else:
                    # Larger batches share even fewer steps.
                    most = min(measured, sequences - 1)
                    self._note_unshared(sequences, length, together=measured)
            self._end()

    async def _mixed_prompts(self) -> None:
        """Measure prompts beside half of the largest batch that decoded, so that there is room."""
        alone = Alone(self._endpoint, self._prompts, self._clock)
        sequences = max((each.sequences for each in self._found.decode_batches), default=0) // 2
        context = _contexts(self._settings)[0]
        for length in _lone_lengths(self._settings):
            self._begin(f"beside {sequences} decoding, {length} tokens")
            if sequences:
                measured = await alone.mixed_prompt(
                    sequences, context, length, repetitions=self._settings.repetitions
                )
                if measured is not None:
                    self._found.mixed_prompts.append(measured)
                else:
                    logger.warning(
                        "mixed_prompt_skipped sequences=%d prompt_tokens=%d reason=it was not "
                        "computed while all of them decoded, token by token",
                        sequences,
                        length,
                    )
            self._end()

    async def _cell(self, input_tokens: int, output_tokens: int) -> None:
        runs = self._found.runs[input_tokens, output_tokens]
        await self._prompts.calibrate(input_tokens)
        lone = Request(0.0, self._prompts.make(input_tokens), output_tokens)
        (sent,) = await send(self._endpoint, [lone], clock=self._clock)
        if sent.answer.failure is not None:
            raise EndpointError(f"{self._endpoint.url}: a request failed ({sent.answer.failure})")
        before = self._done
        while (rate := self._next_rate(sent.answer.end_seconds, runs)) is not None:
            self._begin(f"{input_tokens} in, {output_tokens} out, {rate:.3g} requests/s")
            runs.append(await self._loaded(input_tokens, output_tokens, rate))
            self._end()
        planned = len(self._settings.rates_requests_per_second) or EXPECTED_RUNS
        self._expected += self._done - before - planned

    def _next_rate(self, lone_seconds: float, runs: list[Run]) -> float | None:
        if self._settings.rates_requests_per_second:
            return next_listed_rate(self._settings.rates_requests_per_second, runs)
        return next_searched_rate(lone_seconds, runs)

    async def _loaded(self, input_tokens: int, output_tokens: int, rate: float) -> Run:
        settings = self._settings
        count = max(FEWEST_REQUESTS, round(rate * settings.run_seconds))
        requests = [
            Request(arrival, self._prompts.make(input_tokens), output_tokens)
            for arrival in poisson_arrivals(rate, count, self._random)
        ]
        sent = await send(
            self._endpoint, requests, clock=self._clock, max_in_flight=settings.max_in_flight
        )
        return summary(
            sent,
            offered_requests_per_second=rate,
            max_in_flight=settings.max_in_flight,
            source=SOURCE,
        )

    def _begin(self, stage: str) -> None:
        self._on_progress(stage, self._done, max(self._expected, self._done + 1))

    def _end(self) -> None:
        self._done += 1
        self._keep(self._found.profile(self._facts))

    def _note_unshared(self, sequences: int, length: int, *, together: int) -> None:
        if together == sequences:
            logger.warning(
                "decoding_batch_skipped sequences=%d input_tokens=%d reason=all ran at once, but "
                "shared fewer than %d steps: answers too short or in too few pieces",
                sequences,
                length,
                FEWEST_STEPS,
            )
        # With long contexts it may be the memory that ran out, not the places.
        elif length == _contexts(self._settings)[0]:
            self._found.limits = self._found.limits.model_copy(update={"max_sequences": together})


def _lone_lengths(settings: Settings) -> list[int]:
    """Return the prompt lengths of the grid and parts of its longest, for a fit of three terms."""
    longest = settings.input_tokens[-1]
    return sorted({*settings.input_tokens, *(max(1, longest // part) for part in (8, 4, 2))})


def _contexts(settings: Settings) -> tuple[int, int]:
    """Return a short and a long prompt for decoding batches, with room behind for the answer."""
    longest = settings.input_tokens[-1]
    return max(1, longest // 8), max(2, longest // 2)


def _batches(settings: Settings) -> Iterator[tuple[int, int]]:
    """Yield sequences and prompt length of each decoding batch; sizes double."""
    for length in _contexts(settings):
        sequences = 1
        while sequences <= settings.most_sequences:
            yield sequences, length
            sequences *= 2


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
