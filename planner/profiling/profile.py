"""`profile.json`: what was measured of one replica under load, by request size.

A cell keeps every run that was measured of it, so one profile answers any latency target
(`profile_reading.py`). Only an imported file may hold a single rate that somebody else chose under
a target of theirs; then the whole profile is tied to that target by `taken_under`.
"""

from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.documents import read_document, write_atomically
from planner.hardware.gpu_spec import Date, Source
from planner.units import Count, Name, NonNegative, Positive, Tokens
from planner.workloads.quantiles import quantile
from planner.workloads.slo import Slo, Statistic

Devices = Annotated[Count, Field(ge=1)]
"""A number of devices or of sequences, at least 1."""


class LatencySummary(StrictModel):
    """Statistics of one latency over a run; what a file does not tell is left out."""

    mean_seconds: NonNegative | None = None
    """Arithmetic mean."""
    p50_seconds: NonNegative | None = None
    """Median."""
    p90_seconds: NonNegative | None = None
    """90th percentile."""
    p95_seconds: NonNegative | None = None
    """95th percentile."""
    p99_seconds: NonNegative | None = None
    """99th percentile."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Return every statistic of at least one value."""
        rising = sorted(seconds)
        percentiles = {f"p{n}_seconds": quantile(rising, n / 100) for n in (50, 90, 95, 99)}
        return cls(mean_seconds=sum(rising) / len(rising), **percentiles)

    def at(self, statistic: Statistic) -> float | None:
        """Return one statistic; nothing where it is not known."""
        value: float | None = getattr(self, f"{statistic}_seconds")
        return value

    def known(self) -> tuple[str, ...]:
        """Return the names of the statistics that are there."""
        return tuple(name.removesuffix("_seconds") for name, value in self if value is not None)


class Run(StrictModel):
    """One measurement of a cell under one load."""

    offered_requests_per_second: Positive | None
    """Rate of arrivals that did not wait for answers; nothing: a closed loop, whose clients did."""
    achieved_requests_per_second: Positive
    """Rate of answers."""
    max_in_flight: Devices | None = None
    """Most requests the client had open at once; nothing: no bound."""
    num_requests: Count
    """Requests that count, failures included."""
    num_failures: Count = 0
    """Those without a whole answer; they are in no latency."""
    duration_seconds: Positive
    """From the first arrival to the last answer's end."""
    mean_input_tokens: Positive
    """Prompt tokens of a request, as the endpoint counted them."""
    mean_output_tokens: Positive
    """Tokens of an answer, as the endpoint counted them."""
    ttft: LatencySummary
    """Time to first token, one value a request."""
    tpot: LatencySummary | None = None
    """Time per output token, one value a request; nothing: one token an answer, or not measured."""
    token_gap: LatencySummary | None = None
    """Time between two tokens, one value a token; nothing: not measured."""
    source: Source
    """The command or file it comes from."""


class ThresholdedRate(StrictModel):
    """A rate somebody else picked from runs that the file does not hold."""

    requests_per_second: Positive | None
    """The highest that met `taken_under`; nothing: none did."""
    source: Source
    """The file it comes from."""


class Cell(StrictModel):
    """What is known of requests of one size."""

    runs: tuple[Run, ...] = ()
    """Every measured run, in the order of measuring."""
    thresholded: ThresholdedRate | None = None
    """An imported rate in the place of runs."""


class TakenUnder(StrictModel):
    """The target under which imported rates were picked."""

    statistic: Statistic
    """What of the run's latencies its limits held for."""
    ttft_seconds: Positive | None = None
    """Limit of the time to first token."""
    tpot_seconds: Positive | None = None
    """Limit of the time per output token."""
    tpot_per: Literal["request", "token"] = "request"
    """Whether a value of that was a request's or a token's."""
    end_to_end_seconds: Positive | None = None
    """Limit of a request's whole time."""
    seconds_per_any_token: Positive | None = None
    """Limit of a request's whole time over its input and output tokens."""
    least_requests_per_second: Positive | None = None
    """Least rate of answers."""
    least_output_tokens_per_second: Positive | None = None
    """Least rate of output tokens."""

    def differences_from(self, slo: Slo) -> tuple[str, ...]:
        """Return in words how the target differs from `slo`; nothing: they are the same."""
        pairs: list[tuple[str, object, object]] = [
            ("ttft_seconds", self.ttft_seconds, slo.ttft_seconds),
            ("tpot_seconds", self.tpot_seconds, slo.tpot_seconds),
        ]
        if slo.ttft_seconds is not None and self.ttft_seconds is not None:
            pairs.append(("ttft_statistic", self.statistic, slo.ttft_statistic))
        if slo.tpot_seconds is not None and self.tpot_seconds is not None:
            pairs.append(("tpot_statistic", self.statistic, slo.tpot_statistic))
            pairs.append(("tpot_per", self.tpot_per, slo.tpot_per))
        pairs += [(name, getattr(self, name), None) for name in _BEYOND_OURS]
        return tuple(_difference(*pair) for pair in pairs if pair[1] != pair[2])

    def differences(self, other: Self) -> tuple[str, ...]:
        """Return in words how two such targets differ."""
        pairs = [(name, value, getattr(other, name)) for name, value in self]
        return tuple(_difference(*pair) for pair in pairs if pair[1] != pair[2])


_BEYOND_OURS = (
    "end_to_end_seconds",
    "seconds_per_any_token",
    "least_requests_per_second",
    "least_output_tokens_per_second",
)
"""Limits of other tools that `Slo` does not know."""


def _difference(name: str, mine: object, other: object) -> str:
    return f"{name} {_shown(mine)} against {_shown(other)}"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


class LonePrompt(StrictModel):
    """A request that had the endpoint to itself, for fitting step times."""

    input_tokens: Tokens
    """Length of the prompt."""
    ttft_seconds: Positive
    """Median time to its first token."""
    num_requests: Devices
    """How many were measured."""


class DecodeBatch(StrictModel):
    """Sequences that decoded side by side while nobody else was served, for the same purpose."""

    sequences: Devices
    """How many."""
    input_tokens: Tokens
    """Length of their prompts."""
    context_tokens: Positive
    """Mean context of each."""
    step_seconds: Positive
    """Median over repetitions of the mean time between two tokens of a sequence."""
    num_repetitions: Devices
    """How often it was measured."""


class MixedPrompt(StrictModel):
    """A prompt that was computed beside decoding sequences, for the same purpose."""

    sequences: Devices
    """How many decoded."""
    context_tokens: Positive
    """Mean context of each."""
    prompt_tokens: Tokens
    """Length of the prompt."""
    decode_steps: Devices
    """Steps in the time below: in some of them, one after the other, the prompt was computed."""
    seconds: Positive
    """Median over repetitions of the time between two tokens of a sequence, so many steps apart."""
    num_repetitions: Devices
    """How often it was measured."""


class ObservedLimits(StrictModel):
    """What the endpoint's behaviour and its own words tell about its limits."""

    max_sequences: Devices | None = None
    """Sequences that ran at once when more were asked for; nothing: all that were asked for ran."""
    kv_capacity_tokens: Tokens | None = None
    """Tokens its KV memory holds, from `/metrics`."""
    max_context_tokens: Tokens | None = None
    """Longest sequence, from `/v1/models`."""


class Profile(StrictModel):
    """One kind of replica, measured."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    kind: Literal["profile"] = "profile"
    """What the document is."""
    gpu: Name
    """Device."""
    gpus_per_replica: Devices = 1
    """Devices of a replica."""
    model: Name
    """Model, as the endpoint names it."""
    engine: Name | None = None
    """Serving engine; nothing: not known."""
    engine_version: Name | None = None
    """Its version."""
    dtype: Name | None = None
    """Number format of the weights; nothing: not known."""
    date: Date
    """Day of the last measurement."""
    is_simulated: bool = False
    """Whether a simulator answered in place of devices; no claim about cost may rest on it."""
    input_tokens: Annotated[tuple[Tokens, ...], Field(min_length=1)]
    """Prompt lengths that were measured, rising."""
    output_tokens: Annotated[tuple[Tokens, ...], Field(min_length=1)]
    """Answer lengths that were measured, rising."""
    cell_axes: tuple[Literal["input_tokens"], Literal["output_tokens"]] = (
        "input_tokens",
        "output_tokens",
    )
    """What the rows of `cells` run over, then what the columns."""
    cells: tuple[tuple[Cell, ...], ...]
    """A row a prompt length, a column an answer length; an empty cell was not measured."""
    taken_under: TakenUnder | None = None
    """Target of the imported rates; nothing: every cell holds runs."""
    lone_prompts: tuple[LonePrompt, ...] = ()
    """Requests alone, by prompt length."""
    decode_batches: tuple[DecodeBatch, ...] = ()
    """Decoding alone, by batch and context."""
    mixed_prompts: tuple[MixedPrompt, ...] = ()
    """Prompts beside decoding, by length."""
    limits: ObservedLimits = ObservedLimits()
    """Limits seen on the way."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name in self.cell_axes:
            for before, after in pairwise(getattr(self, name)):
                if after <= before:
                    raise ValueError(f"{name} does not rise: {after} follows {before}; sort it")
        shape = {len(row) for row in self.cells}
        if len(self.cells) != len(self.input_tokens) or shape != {len(self.output_tokens)}:
            raise ValueError(
                f"cells is no {len(self.input_tokens)} by {len(self.output_tokens)} matrix; "
                "give a row a prompt length and a column an answer length"
            )
        has_rates = any(cell.thresholded for cell in chain.from_iterable(self.cells))
        if has_rates != (self.taken_under is not None):
            raise ValueError(
                "taken_under must stand beside thresholded rates and nowhere else; "
                "without its target such a rate means nothing"
            )
        return self


def read_profile(path: Path) -> Profile:
    """Return the profile in a file.

    Raises:
        DocumentError: If it is missing, malformed, or of another kind or version.
    """
    return read_document(path, Profile)


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile.

    Raises:
        DocumentError: If it cannot be written.
    """
    write_atomically(path, profile.model_dump_json(indent=1) + "\n")
