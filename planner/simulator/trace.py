"""What arrives: the requests a simulation serves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of arrival; one entry a request in every column.

    Raises:
        ValueError: If a column's length differs, a number is out of range, or arrivals fall back.
    """

    arrival_seconds: Sequence[float]
    """From any start, never falling."""
    input_tokens: Sequence[int]
    """At least 1."""
    output_tokens: Sequence[int]
    """Tokens the answer will have, at least 1; the router never sees them."""
    models: Sequence[str] = ()
    """The model each asks for; empty: all ask for the fleet's only one."""

    def __post_init__(self) -> None:
        num_requests = len(self.arrival_seconds)
        lengths = {num_requests, len(self.input_tokens), len(self.output_tokens)}
        if len(lengths) > 1 or len(self.models) not in (0, num_requests):
            raise ValueError(
                f"{num_requests} arrivals, {len(self.input_tokens)} inputs, "
                f"{len(self.output_tokens)} outputs, {len(self.models)} models; "
                "give one entry a request in every column"
            )
        if not num_requests:
            raise ValueError("the trace is empty; give at least one request")
        if not all(map(math.isfinite, self.arrival_seconds)):
            raise ValueError("an arrival is not a finite number of seconds; drop or correct it")
        if min(self.input_tokens) < 1 or min(self.output_tokens) < 1:
            raise ValueError("a request has no input or no output tokens; drop it")
        num_falling = sum(later < earlier for earlier, later in pairwise(self.arrival_seconds))
        if num_falling:
            raise ValueError(f"{num_falling} requests arrive before their predecessor; sort them")

    def __len__(self) -> int:
        return len(self.arrival_seconds)
