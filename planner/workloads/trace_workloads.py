"""From a trace to a workload, as the fleet planner takes it."""

from dataclasses import dataclass

from planner.workloads.grid import Grid
from planner.workloads.histogram import Histogram, histogram_of
from planner.workloads.trace import Trace
from planner.workloads.workload import Workload


@dataclass(frozen=True, slots=True)
class TracedWorkload:
    """A workload and the counts it was made of."""

    workload: Workload
    """Rate and mean input and output of every size: `workload.sizes()`."""
    histogram: Histogram
    """Its `notes` say what was extrapolated."""


def traced_workload(
    trace: Trace,
    *,
    requests_per_second: float,
    grid: Grid | None = None,
    extrapolates: bool = False,
) -> TracedWorkload:
    """Return one workload for all requests of a trace.

    Args:
        trace: Requests, whatever their models.
        requests_per_second: Rate at which they are to arrive.
        grid: Sizes to tell apart; by default chosen from the trace.
        extrapolates: Count requests beyond the grid in proportion instead of refusing them.

    Raises:
        WorkloadError: If requests lie beyond the grid and are not to be extrapolated, or the rate
            is none that a workload can have.
    """
    histogram = histogram_of(trace, grid or Grid.chosen(trace), extrapolates=extrapolates)
    return TracedWorkload(histogram.workload(requests_per_second=requests_per_second), histogram)
