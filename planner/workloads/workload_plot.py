"""A workload as a picture: its sizes, and its arrivals over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.workloads.grid import Grid
    from planner.workloads.workload_report import WorkloadReport

_NUM_BINS = 60


def workload_figure(report: WorkloadReport, arrival_seconds: Sequence[float]) -> Figure:
    """Return the histogram as a heat map beside the rate of arrivals over time.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    figure = new_figure(width_inches=12, height_inches=5)
    sizes, times = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(report.source, wrap=True, parse_math=False)
    fractions = report.workload.histogram_fraction
    assert fractions is not None
    _draw_sizes(sizes, report.traced.histogram.grid, fractions)
    _draw_arrivals(times, arrival_seconds)
    return figure


def _draw_sizes(axes: Axes, grid: Grid, fractions: Sequence[Sequence[float]]) -> None:
    axes.set_title("% of requests by size")
    axes.imshow(fractions, origin="lower", aspect="auto", cmap="Blues")
    for row, line in enumerate(fractions):
        for column, fraction in enumerate(line):
            if fraction > 0:
                shade = "white" if fraction > max(map(max, fractions)) / 2 else "black"
                text = f"{fraction * 100:.2g}"
                axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=8)
    axes.set_xlabel("output tokens up to")
    axes.set_ylabel("input tokens up to")
    outputs, inputs = grid.output_tokens_up_to, grid.input_tokens_up_to
    axes.set_xticks(range(len(outputs)), [f"{end:,}" for end in outputs], rotation=45)
    axes.set_yticks(range(len(inputs)), [f"{end:,}" for end in inputs])


def _draw_arrivals(axes: Axes, arrival_seconds: Sequence[float]) -> None:
    axes.set_title("arrivals, as in the source")
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests/s")
    width_seconds = arrival_seconds[-1] / _NUM_BINS
    if width_seconds == 0:
        axes.text(0.5, 0.5, "all requests arrive at once", ha="center", transform=axes.transAxes)
        return
    counts = Counter(min(int(at / width_seconds), _NUM_BINS - 1) for at in arrival_seconds)
    rates = [counts[number] / width_seconds for number in range(_NUM_BINS)]
    edges = [number * width_seconds for number in range(_NUM_BINS + 1)]
    axes.stairs(rates, edges, fill=True)
    axes.set_ylim(bottom=0)
