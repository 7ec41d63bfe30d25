"""The grid of request sizes: where its ranges end, and how to choose that from a trace."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

from planner.workloads.trace import MOST_TOKENS, Trace

MOST_INPUT_RANGES = 10
MOST_OUTPUT_RANGES = 6
"""Ranges of a chosen grid; as many as Mélange evaluates with (arXiv 2404.14527, section 6.1)."""

TIDY = tuple(
    mantissa * 10**exponent // 10
    for exponent in range(10)
    for mantissa in (10, 15, 20, 25, 30, 40, 50, 60, 80)
    if mantissa * 10**exponent % 10 == 0 and mantissa * 10**exponent <= 10 * MOST_TOKENS
)
"""Rising round numbers up to `MOST_TOKENS`: 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30, 40, ..."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Upper ends of the ranges, rising; a range starts where the one before it ends."""

    input_tokens_up_to: tuple[int, ...]
    output_tokens_up_to: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse an axis that is empty or does not rise."""
        for name in self.__slots__:
            ends = getattr(self, name)
            if not ends:
                raise ValueError(f"{name} is empty; give at least one upper end")
            for before, after in pairwise((0, *ends)):
                if after <= before:
                    raise ValueError(
                        f"{name} does not rise: {after} follows {before}; let the ends rise from 1"
                    )
            if ends[-1] > MOST_TOKENS:
                raise ValueError(f"{name} ends at {ends[-1]:,}; give at most {MOST_TOKENS:,}")

    @classmethod
    def chosen(
        cls,
        trace: Trace,
        *,
        most_input_ranges: int = MOST_INPUT_RANGES,
        most_output_ranges: int = MOST_OUTPUT_RANGES,
    ) -> Self:
        """Return a grid that holds every request of the trace, chosen as `chosen_ends` says.

        Raises:
            ValueError: If a number of ranges is below 1.
        """
        return cls(
            chosen_ends(trace.input_tokens, most_ranges=most_input_ranges),
            chosen_ends(trace.output_tokens, most_ranges=most_output_ranges),
        )

    def cell(self, input_tokens: int, output_tokens: int) -> tuple[int, int]:
        """Return the upper ends of the ranges that hold a request.

        Raises:
            ValueError: If it lies beyond the grid.
        """
        inputs, outputs = self.input_tokens_up_to, self.output_tokens_up_to
        if input_tokens > inputs[-1] or output_tokens > outputs[-1]:
            raise ValueError(
                f"a request of {input_tokens} input and {output_tokens} output tokens lies beyond "
                f"the grid's {inputs[-1]} and {outputs[-1]}; widen the grid"
            )
        return (
            inputs[bisect_left(inputs, input_tokens)],
            outputs[bisect_left(outputs, output_tokens)],
        )


def chosen_ends(tokens: Sequence[int], *, most_ranges: int) -> tuple[int, ...]:
    """Return upper ends of at most `most_ranges` ranges that hold every length.

    Each range holds about the same part of requests and tokens taken together (the mean of its
    share of either). By requests alone, the long tail, which costs most, would share one range; by
    tokens alone, the short requests would. Ends are rounded up to `TIDY` numbers, and fewer ranges
    come out where two round to the same. The last ends at the longest request itself: a rounder
    number would speak of requests that nobody sent and that a model's context may not hold.

    Args:
        tokens: Lengths, at least one, each at least 1.
        most_ranges: At least 1.

    Raises:
        ValueError: If there are no lengths or `most_ranges` is below 1.
    """
    if not tokens or most_ranges < 1:
        raise ValueError(f"{len(tokens)} lengths for {most_ranges} ranges; give at least 1 of both")
    rising = sorted(tokens)
    mean = sum(rising) / len(rising)
    # A request weighs 1 for itself and its length ÷ the mean for its tokens.
    mass = list(accumulate(1 + length / mean for length in rising))
    cuts = (mass[-1] * number / most_ranges for number in range(1, most_ranges))
    quantiles = (rising[bisect_left(mass, cut)] for cut in cuts)
    tidy = {TIDY[bisect_left(TIDY, length)] for length in quantiles}
    return (*sorted(end for end in tidy if end < rising[-1]), rising[-1])
