"""A trace and its histogram as tables for the terminal."""

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from planner.workloads.trace_summary import LengthSummary, TraceSummary
from planner.workloads.trace_workloads import TracedWorkload
from planner.workloads.workload import Workload


@dataclass(frozen=True, slots=True)
class WorkloadReport:
    """A workload, and what it was made of."""

    source: str
    """File or mix, and its format."""
    summary: TraceSummary
    requests_by_model: dict[str, int]
    """Empty where the source names no model."""
    traced: TracedWorkload
    notes: tuple[str, ...]
    """What the user must know, a sentence each."""

    @property
    def workload(self) -> Workload:
        """The workload alone."""
        return self.traced.workload

    def comments(self) -> list[str]:
        """Return what a file that holds the workload says of its making, a sentence each."""
        summary = self.summary
        return [
            f"{summary.num_requests:,} requests in {summary.duration_seconds:,.0f} s of {self.source}.",
            "Written by `motley plan workload`; a section of the file `motley plan fleet` reads.",
            *(f"Note: {note}." for note in self.notes),
        ]


def print_workload(report: WorkloadReport, console: Console) -> None:
    """Print the trace in numbers, its histogram, and the notes."""
    console.print(_summary_table(report))
    console.print(_lengths_table(report.summary))
    console.print(_histogram_table(report))
    for note in report.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _summary_table(report: WorkloadReport) -> Table:
    summary = report.summary
    rows = {
        "requests": f"{summary.num_requests:,}",
        "duration": f"{summary.duration_seconds:,.1f} s",
        "requests/s of the trace": _number(summary.rate_requests_per_second),
        "requests/s of its busiest minute": _number(summary.busiest_minute_requests_per_second),
        "burstiness (SCV of the gaps, 1: Poisson)": _number(summary.gap_scv),
        "requests/s of the workload": _number(report.workload.requests_per_second),
    }
    for model, count in report.requests_by_model.items():
        rows[f"requests of {escape(model) or 'no named model'}"] = f"{count:,}"
    table = Table(title=escape(report.source), title_justify="left", show_header=False)
    table.add_column("", overflow="fold")
    table.add_column("", justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _lengths_table(summary: TraceSummary) -> Table:
    table = Table(title="tokens a request")
    for title in ("", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(title, justify="right" if title else "left")
    for name, tokens in (("input", summary.input_tokens), ("output", summary.output_tokens)):
        table.add_row(name, *_length_cells(tokens))
    return table


def _length_cells(tokens: LengthSummary) -> list[str]:
    percentiles = (tokens.p50, tokens.p90, tokens.p95, tokens.p99, tokens.max)
    return [f"{tokens.mean:,.1f}", *(f"{value:,.1f}".removesuffix(".0") for value in percentiles)]


def _histogram_table(report: WorkloadReport) -> Table:
    grid = report.traced.histogram.grid
    table = Table(title="% of requests by size; a row an input range, a column an output range")
    table.add_column("tokens up to", justify="right")
    for end in grid.output_tokens_up_to:
        table.add_column(f"{end:,}", justify="right")
    assert report.workload.histogram_fraction is not None
    rows = zip(grid.input_tokens_up_to, report.workload.histogram_fraction, strict=True)
    for end, fractions in rows:
        table.add_row(f"{end:,}", *(_percent(fraction) for fraction in fractions))
    return table


def _percent(fraction: float) -> str:
    if fraction == 0:
        return "-"
    return "<0.01" if fraction < 1e-4 else f"{fraction * 100:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
