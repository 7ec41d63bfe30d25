"""What is asked of a fleet: how many requests a second of which input and output size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, product, repeat
from typing import Annotated, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.units import Number, Positive, Rates, Tokens

HISTOGRAM_TOLERANCE = 1e-6
"""How far a histogram's sum may lie from 1."""

Means = Annotated[tuple[tuple[Number | None, ...], ...], Field(min_length=1)]
"""A matrix of mean token counts; nothing where there are no requests."""

Axis = Annotated[tuple[Tokens, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class RequestSize:
    """One cell of the workload's grid; a range holds lengths over its start, up to its end.

    Performance is best evaluated at the mean sizes. The load of a cell is the sum over its requests
    of what each costs, and a request's cost is nearly linear in its tokens (a forward pass over
    every input token, one step and one read of the cache for every output token), so the sum is the
    number of requests times the cost of the mean request. The range's end would overstate the load
    by up to the range's width. What the mean understates is attention, quadratic in the input; the
    error is its curvature times the variance inside the range and shrinks with its width squared.
    """

    input_tokens_over: int
    input_tokens_up_to: int
    output_tokens_over: int
    output_tokens_up_to: int
    rate_requests_per_second: float
    mean_input_tokens: float | None = None
    """Mean input of its requests; nothing where it is not known."""
    mean_output_tokens: float | None = None
    """The same of outputs."""

    @property
    def input_spread_tokens(self) -> tuple[float, float]:
        """Shortest and longest input taken to occur: around the mean, as wide as the range allows."""
        return _spread(self.input_tokens_over, self.input_tokens_up_to, self.mean_input_tokens)

    @property
    def output_spread_tokens(self) -> tuple[float, float]:
        """The same of outputs."""
        return _spread(self.output_tokens_over, self.output_tokens_up_to, self.mean_output_tokens)

    def __str__(self) -> str:
        return (
            f"input {self.input_tokens_over + 1}-{self.input_tokens_up_to}, "
            f"output {self.output_tokens_over + 1}-{self.output_tokens_up_to} tokens"
        )


class Workload(StrictModel):
    """Request rates over a grid of sizes: a matrix of rates, or a histogram and a total rate."""

    input_tokens_up_to: Axis
    """Upper ends of the input ranges, rising; a range starts where the one before it ends."""
    output_tokens_up_to: Axis
    """Upper ends of the output ranges, rising."""
    rates_requests_per_second: Rates | None = None
    """Rate of each size; a row an input range, a column an output range. 0: no such requests."""
    histogram_fraction: Rates | None = None
    """Share of each size in all requests, summing to 1; needs `requests_per_second`."""
    requests_per_second: Positive | None = None
    """Total rate, given with a histogram only."""
    mean_input_tokens: Means | None = None
    """Mean input of each size, within its range; nothing: not known."""
    mean_output_tokens: Means | None = None
    """The same of outputs."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name in ("input_tokens_up_to", "output_tokens_up_to"):
            _check_rising(name, getattr(self, name))
        if self.rates_requests_per_second is not None:
            self._check_rates(self.rates_requests_per_second)
        else:
            self._check_histogram()
        self._check_means()
        return self

    def _check_rates(self, rates: tuple[tuple[float, ...], ...]) -> None:
        if self.histogram_fraction is not None or self.requests_per_second is not None:
            raise ValueError(
                "rates_requests_per_second stands beside histogram_fraction or "
                "requests_per_second; give the rates alone, or the histogram and the total rate"
            )
        self.check_shape("rates_requests_per_second", rates)
        if not sum(map(sum, rates)) > 0:
            raise ValueError(
                "rates_requests_per_second holds no requests, it sums to 0; give at least one rate"
            )

    def _check_histogram(self) -> None:
        if self.histogram_fraction is None or self.requests_per_second is None:
            raise ValueError(
                "holds no requests; give rates_requests_per_second, or both "
                "histogram_fraction and requests_per_second"
            )
        self.check_shape("histogram_fraction", self.histogram_fraction)
        total = sum(map(sum, self.histogram_fraction))
        if abs(total - 1) > HISTOGRAM_TOLERANCE:
            raise ValueError(
                f"histogram_fraction sums to {total:.9g}, not to 1; "
                "correct the shares, or give rates_requests_per_second"
            )

    def _check_means(self) -> None:
        for name in ("mean_input_tokens", "mean_output_tokens"):
            if getattr(self, name) is not None:
                self.check_shape(name, getattr(self, name))
        for size in self.sizes():
            inputs = (size.input_tokens_over, size.input_tokens_up_to)
            _check_mean("mean_input_tokens", size, size.mean_input_tokens, *inputs)
            outputs = (size.output_tokens_over, size.output_tokens_up_to)
            _check_mean("mean_output_tokens", size, size.mean_output_tokens, *outputs)

    def check_shape(self, name: str, matrix: Sequence[Sequence[object]]) -> None:
        """Check that `matrix` has a row for each input range, a column for each output range.

        Raises:
            ValueError: If it is ragged or of another shape; the message starts with `name`.
        """
        num_rows, num_columns = len(self.input_tokens_up_to), len(self.output_tokens_up_to)
        if len(matrix) != num_rows:
            raise ValueError(
                f"{name} has {len(matrix)} rows, the workload {num_rows} input ranges; "
                "give one row for each"
            )
        for number, row in enumerate(matrix, start=1):
            if len(row) != num_columns:
                raise ValueError(
                    f"{name} has {len(row)} numbers in row {number}, the workload {num_columns} "
                    "output ranges; give one number for each"
                )

    def sizes(self) -> tuple[RequestSize, ...]:
        """Return every cell of the grid with its rate, row by row; some rates may be 0."""
        if self.rates_requests_per_second is not None:
            rates, scale = self.rates_requests_per_second, 1.0
        else:
            assert self.histogram_fraction is not None
            assert self.requests_per_second is not None
            rates, scale = self.histogram_fraction, self.requests_per_second
        ranges = product(_ranges(self.input_tokens_up_to), _ranges(self.output_tokens_up_to))
        columns = (chain.from_iterable(rates), self._flat(self.mean_input_tokens))
        cells = zip(ranges, *columns, self._flat(self.mean_output_tokens), strict=True)
        return tuple(
            RequestSize(*inputs, *outputs, rate * scale, mean_input, mean_output)
            for (inputs, outputs), rate, mean_input, mean_output in cells
        )

    def _flat(self, means: Sequence[Sequence[float | None]] | None) -> Iterable[float | None]:
        if means is None:
            return repeat(None, len(self.input_tokens_up_to) * len(self.output_tokens_up_to))
        return chain.from_iterable(means)


def _spread(over: int, up_to: int, mean: float | None) -> tuple[float, float]:
    if mean is None:
        return over + 1, up_to
    half = max(0.0, min(mean - (over + 1), up_to - mean))
    return mean - half, mean + half


def _ranges(ends: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip((0, *ends[:-1]), ends, strict=True))


def _check_rising(name: str, ends: tuple[int, ...]) -> None:
    for before, after in pairwise(ends):
        if after <= before:
            raise ValueError(f"{name} does not rise: {after} follows {before}; sort the ranges")


def _check_mean(name: str, size: RequestSize, mean: float | None, over: int, up_to: int) -> None:
    if mean is not None and not over < mean <= up_to:
        raise ValueError(
            f"{name} of {size} is {mean:g}, outside its range; correct it or leave it empty"
        )
