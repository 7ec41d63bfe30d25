"""Where the planned file takes a model's requests from: a grid of rates, a trace, or a mix."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from planner.config import StrictModel
from planner.units import Name, Positive, Rate
from planner.workloads.workload import Workload

Ranges = Annotated[int, Field(ge=1, le=100)]


class TraceRequests(StrictModel):
    """The requests of a trace file."""

    trace: Path
    """Azure or BurstGPT CSV, Mooncake trace or the router's log; relative to this file."""
    format: Name | None = None
    """Format of the file; nothing: its first line tells."""
    model: Name | None = None
    """Only the requests of this model; nothing: all."""
    requests_per_second: Rate | None = None
    """Rate at which they are to arrive; nothing: the trace's own."""
    broken_rows_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Leave out broken rows, up to this share of all."""
    sort_rows: bool = False
    """Sort a file whose rows are out of order."""
    most_input_ranges: Ranges = 10
    """Most input ranges of the grid that is chosen."""
    most_output_ranges: Ranges = 6
    """Most output ranges."""


class MixRequests(StrictModel):
    """Requests drawn from a named mix."""

    mix: Name
    """Its name; `motley plan workload --help` lists them."""
    requests_per_second: Rate
    """Rate at which they arrive."""
    duration_seconds: Positive = 3600.0
    """Length of the trace that is drawn."""
    gap_scv: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Burstiness: 1 is Poisson, 0 regular arrivals."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The same seed gives the same trace."""
    most_input_ranges: Ranges = 10
    """Most input ranges of the grid that is chosen."""
    most_output_ranges: Ranges = 6
    """Most output ranges."""


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "trace" if "trace" in value else "mix" if "mix" in value else "grid"
    if isinstance(value, TraceRequests):
        return "trace"
    return "mix" if isinstance(value, MixRequests) else "grid"


Requests = Annotated[
    Annotated[Workload, Tag("grid")]
    | Annotated[TraceRequests, Tag("trace")]
    | Annotated[MixRequests, Tag("mix")],
    Discriminator(_kind),
]
"""`trace` or `mix` names the source; without them the section is a grid of rates."""
