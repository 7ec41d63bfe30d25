"""From a trace to a grid of request sizes, losing no request on the way.

A chosen grid holds the whole trace. A grid of the caller's own may end below the longest requests;
these are refused or extrapolated, never cut to the grid's end, which would understate the load. A
request is extrapolated in proportion to its tokens: one of 3,000 input tokens, where the last range
ends at 2,000, counts as 1.5 requests of 2,000; one that is too long in both counts the product.
That conserves the tokens of inputs (or outputs) that alone are too long; attention, whose cost
grows faster, is still understated.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from pydantic import ValidationError

from planner.documents import describe
from planner.errors import WorkloadError
from planner.workloads.grid import Grid
from planner.workloads.trace import Trace
from planner.workloads.workload import Workload

Value = TypeVar("Value")
Matrix = tuple[tuple[Value, ...], ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Requests counted by size; a row an input range, a column an output range."""

    grid: Grid
    num_requests: int
    """Requests of the trace."""
    counts: Matrix[float]
    """Requests by size; those beyond the grid count for more than 1, in proportion."""
    mean_input_tokens: Matrix[float | None]
    """Mean input of each size; nothing where the count is 0."""
    mean_output_tokens: Matrix[float | None]
    """The same of outputs."""
    notes: tuple[str, ...]
    """What was extrapolated, a sentence each."""

    def workload(self, *, requests_per_second: float) -> Workload:
        """Return the workload of this histogram.

        Args:
            requests_per_second: Rate at which requests such as the trace's arrive. The workload's
                is higher where requests beyond the grid count for more than 1.

        Raises:
            WorkloadError: If the rate is none that a workload can have.
        """
        total = math.fsum(map(math.fsum, self.counts))
        try:
            return Workload(
                input_tokens_up_to=self.grid.input_tokens_up_to,
                output_tokens_up_to=self.grid.output_tokens_up_to,
                requests_per_second=requests_per_second * total / self.num_requests,
                histogram_fraction=tuple(
                    tuple(count / total for count in row) for row in self.counts
                ),
                mean_input_tokens=self.mean_input_tokens,
                mean_output_tokens=self.mean_output_tokens,
            )
        except ValidationError as error:
            raise WorkloadError(f"the trace gives no workload: {describe(error)}") from None


def histogram_of(trace: Trace, grid: Grid, *, extrapolates: bool = False) -> Histogram:
    """Return the trace counted by size.

    Args:
        trace: Requests to count.
        grid: Sizes to tell apart.
        extrapolates: Count requests beyond the grid in proportion instead of refusing them.

    Raises:
        WorkloadError: If requests lie beyond the grid and are not to be extrapolated.
    """
    notes = []
    for name, tokens, ends in (
        ("input", trace.input_tokens, grid.input_tokens_up_to),
        ("output", trace.output_tokens, grid.output_tokens_up_to),
    ):
        outside = _outside(name, tokens, ends[-1])
        if outside and not extrapolates:
            raise WorkloadError(f"{outside}; widen the grid, or allow it with --extrapolate")
        if outside:
            rule = f"extrapolated: each counts as its {name} tokens ÷ {ends[-1]:,} requests of that range"
            notes.append(f"{outside}; {rule}")
    return _counted(trace, grid, tuple(notes))


def _counted(trace: Trace, grid: Grid, notes: tuple[str, ...]) -> Histogram:
    """Sum requests, input tokens and output tokens of every size."""
    inputs, outputs = grid.input_tokens_up_to, grid.output_tokens_up_to
    num_columns = len(outputs)
    counts, input_sums, output_sums = ([0.0] * (len(inputs) * num_columns) for _ in range(3))
    for long_input, long_output in zip(trace.input_tokens, trace.output_tokens, strict=True):
        kept_input, kept_output = min(long_input, inputs[-1]), min(long_output, outputs[-1])
        weight = (long_input / kept_input) * (long_output / kept_output)
        cell = bisect_left(inputs, kept_input) * num_columns + bisect_left(outputs, kept_output)
        counts[cell] += weight
        input_sums[cell] += weight * kept_input
        output_sums[cell] += weight * kept_output

    def rows(flat: list[Value]) -> Matrix[Value]:
        starts = range(0, len(flat), num_columns)
        return tuple(tuple(flat[start : start + num_columns]) for start in starts)

    # Rounding of the weights must not lift a mean over its range, hence the least of both.
    sizes = list(product(inputs, outputs))
    input_means = [
        min(total / count, size[0]) if count else None
        for size, count, total in zip(sizes, counts, input_sums, strict=True)
    ]
    output_means = [
        min(total / count, size[1]) if count else None
        for size, count, total in zip(sizes, counts, output_sums, strict=True)
    ]
    return Histogram(
        grid=grid,
        num_requests=trace.num_requests,
        counts=rows(counts),
        mean_input_tokens=rows(input_means),
        mean_output_tokens=rows(output_means),
        notes=notes,
    )


def _outside(name: str, tokens: Sequence[int], end: int) -> str:
    """Say how many requests are longer than the grid; empty where none is."""
    longer = [value for value in tokens if value > end]
    if not longer:
        return ""
    return (
        f"{len(longer):,} of {len(tokens):,} requests ({len(longer) / len(tokens):.2%}) are longer "
        f"than the last {name} range, {end:,} tokens; the longest has {max(longer):,}"
    )
