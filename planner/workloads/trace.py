"""A trace: when requests arrived and how large they were, whatever file they came from."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise
from typing import Self

from planner.errors import WorkloadError

MOST_TOKENS = 1_000_000_000
"""Largest believable size of a request; the same bound as in configuration files."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival; every field holds one entry a request."""

    arrival_seconds: tuple[float, ...]
    """Never falling; the first is 0."""
    input_tokens: tuple[int, ...]
    """At least 1."""
    output_tokens: tuple[int, ...]
    """At least 1: a request without an answer has no place in a trace."""
    models: tuple[str, ...] | None = None
    """Model asked for, empty for a request that names none; nothing where the source has none."""
    max_tokens: tuple[int | None, ...] | None = None
    """Limit the client set on the output, where it set one; nothing where no limit is known."""

    def __post_init__(self) -> None:
        """Check what every reader of a trace relies on."""
        if not self.arrival_seconds:
            raise ValueError("a trace needs at least one request")
        columns = {name: getattr(self, name) for name in self.__slots__}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"fields of a trace differ in length: {lengths}; give one a request")
        if self.arrival_seconds[0] != 0 or not math.isfinite(self.arrival_seconds[-1]):
            first, last = self.arrival_seconds[0], self.arrival_seconds[-1]
            raise ValueError(f"arrivals run from {first} to {last} s; let them start at 0 and end")
        for before, after in pairwise(self.arrival_seconds):
            if not after >= before:
                raise ValueError(f"an arrival at {after} s follows one at {before} s; sort them")
        _check_tokens("input_tokens", self.input_tokens)
        _check_tokens("output_tokens", self.output_tokens)
        limits = self.max_tokens or ()
        _check_tokens("max_tokens", [limit for limit in limits if limit is not None])

    @property
    def num_requests(self) -> int:
        """How many requests arrived."""
        return len(self.arrival_seconds)

    @property
    def duration_seconds(self) -> float:
        """From the first arrival to the last."""
        return self.arrival_seconds[-1]

    @property
    def rate_requests_per_second(self) -> float:
        """Arrivals after the first ÷ the duration: the reciprocal of the mean gap between them.

        Raises:
            WorkloadError: If all requests arrive at once.
        """
        if self.duration_seconds == 0:
            self._check_several()
            raise WorkloadError(
                f"all requests of the trace ({self.num_requests}) arrive at once, so it has no "
                "rate; plan for the grid that `motley plan workload --requests-per-second` makes of it"
            )
        return (self.num_requests - 1) / self.duration_seconds

    @property
    def num_requests_by_model(self) -> dict[str, int]:
        """Requests by model, the most asked for first; empty where the source names none."""
        return dict(Counter(self.models or ()).most_common())

    def scaled(self, *, requests_per_second: float) -> Self:
        """Return the same requests with the gaps between them stretched to another rate.

        Raises:
            WorkloadError: If all requests arrive at once.
            ValueError: If the rate is not a finite number above 0.
        """
        if not 0 < requests_per_second < math.inf:
            raise ValueError(f"rate is {requests_per_second}; give a finite number above 0")
        if self.duration_seconds == 0:
            self._check_several()
            raise WorkloadError(
                f"all requests of the trace ({self.num_requests}) arrive at once; there are no "
                "gaps to stretch to another rate; plan for the grid that `motley plan workload` "
                "makes of it"
            )
        factor = self.rate_requests_per_second / requests_per_second
        return replace(self, arrival_seconds=tuple(at * factor for at in self.arrival_seconds))

    def with_unnamed(self, model: str | None) -> Self:
        """Return the same requests where those that name no model ask for this one.

        Raises:
            WorkloadError: If some name none and `model` is nothing.
        """
        num_unnamed = self.num_requests if self.models is None else self.models.count("")
        if num_unnamed == 0:
            return self
        if not model:
            raise WorkloadError(
                f"{num_unnamed:,} of {self.num_requests:,} requests of the trace name no model; "
                "say which model they are for"
            )
        names = ("",) * self.num_requests if self.models is None else self.models
        return replace(self, models=tuple(name or model for name in names))

    def of_model(self, model: str) -> Self:
        """Return the requests of one model; time starts at the first of them.

        Raises:
            WorkloadError: If no request asks for it.
        """
        keep = [name == model for name in self.models or ()]
        if not any(keep):
            known = ", ".join(filter(None, self.num_requests_by_model)) or "none at all"
            raise WorkloadError(f"no request of the trace is for {model!r}; it names {known}")
        arrivals = list(compress(self.arrival_seconds, keep))
        assert self.models is not None
        return replace(
            self,
            arrival_seconds=tuple(at - arrivals[0] for at in arrivals),
            input_tokens=tuple(compress(self.input_tokens, keep)),
            output_tokens=tuple(compress(self.output_tokens, keep)),
            models=tuple(compress(self.models, keep)),
            max_tokens=None if self.max_tokens is None else tuple(compress(self.max_tokens, keep)),
        )

    def _check_several(self) -> None:
        if self.num_requests == 1:
            raise WorkloadError(
                "the trace holds one request, too few for a rate or gaps to stretch; give several"
            )


def _check_tokens(name: str, tokens: Sequence[int] | Iterable[int]) -> None:
    for value in tokens:
        if not 1 <= value <= MOST_TOKENS:
            raise ValueError(f"{name} holds {value}; give whole numbers from 1 to {MOST_TOKENS:,}")
