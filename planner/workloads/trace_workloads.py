"""From a trace of several models to one workload for each, as the fleet planner takes them."""

from collections.abc import Mapping
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


def workloads_by_model(
    trace: Trace,
    *,
    unnamed: str | None = None,
    requests_per_second: float | None = None,
    grids: Mapping[str, Grid] | None = None,
    extrapolates: bool = False,
) -> dict[str, TracedWorkload]:
    """Return a workload for each model of a trace, the most asked for first.

    The rate of a model is its share of the requests times the rate of all, so that the rates add
    up; a model's own first and last arrival would say little where it is rarely asked for.

    Args:
        trace: Requests of any number of models.
        unnamed: Model of requests that name none.
        requests_per_second: Rate of all models together; by default the trace's own.
        grids: Sizes to tell apart, by model; by default chosen from the model's requests.
        extrapolates: Count requests beyond a grid in proportion instead of refusing them.

    Raises:
        WorkloadError: If requests name no model and `unnamed` is not given, if requests lie beyond
            a grid and are not to be extrapolated, or if all arrive at once and no rate is given.
    """
    named = trace.with_unnamed(unnamed)
    rate = requests_per_second or trace.rate_requests_per_second
    return {
        model: traced_workload(
            named.of_model(model),
            requests_per_second=rate * count / trace.num_requests,
            grid=(grids or {}).get(model),
            extrapolates=extrapolates,
        )
        for model, count in named.num_requests_by_model.items()
    }
