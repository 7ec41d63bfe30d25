"""`motley plan workload`: a trace, or a synthetic mix, as the workload of a fleet file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.console import configure_logging, output

if TYPE_CHECKING:
    from planner.workloads.grid import Grid
    from planner.workloads.trace import Trace
    from planner.workloads.workload_report import WorkloadReport
    from planner.workloads.workload_source import WorkloadSource

Source = Annotated[str, typer.Argument(metavar="FILE|MIX", show_default=False)]
Rate = Annotated[
    float | None,
    typer.Option(help="Rate to plan for; by default the trace's own. A mix needs one."),
]
Model = Annotated[str | None, typer.Option(help="Only the requests of this model.")]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Format of the file; by default its first line tells."),
]
BrokenRows = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out broken rows, up to this fraction of all.")
]
SortRows = Annotated[
    bool, typer.Option("--sort-rows", help="Sort a file whose rows are out of order.")
]
Duration = Annotated[float, typer.Option(help="Length of the trace that is drawn from a mix.")]
GapScv = Annotated[
    float, typer.Option(help="Burstiness of a mix's arrivals: 1 is Poisson, 0 regular.")
]
Seed = Annotated[int, typer.Option(min=0, help="A mix's chance; the same seed, the same trace.")]
InputEnds = Annotated[
    str | None,
    typer.Option(
        "--input-tokens-up-to", metavar="N,N,...", help="Ends of the input ranges, rising."
    ),
]
OutputEnds = Annotated[
    str | None,
    typer.Option(
        "--output-tokens-up-to", metavar="N,N,...", help="Ends of the output ranges, rising."
    ),
]
MostInputs = Annotated[int, typer.Option(min=1, max=100, help="Most input ranges to choose.")]
MostOutputs = Annotated[int, typer.Option(min=1, max=100, help="Most output ranges to choose.")]
Extrapolate = Annotated[
    bool,
    typer.Option(
        "--extrapolate", help="Count requests beyond the ranges given in proportion to their size."
    ),
]
OutputFile = Annotated[
    Path | None,
    typer.Option("--output", help="Write the workload to this .yaml or .json file."),
]
TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace-output", help="Write the requests, at the rate planned for, to this .jsonl file."
    ),
]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Draw the workload to this PNG.")]


def workload(
    source: Source,
    requests_per_second: Rate = None,
    model: Model = None,
    format_name: Format = None,
    broken_rows_fraction: BrokenRows = 0.0,
    sort_rows: SortRows = False,
    duration_seconds: Duration = 3600.0,
    gap_scv: GapScv = 1.0,
    seed: Seed = 0,
    input_ends: InputEnds = None,
    output_ends: OutputEnds = None,
    most_input_ranges: MostInputs = 10,
    most_output_ranges: MostOutputs = 6,
    extrapolate: Extrapolate = False,
    output_file: OutputFile = None,
    trace_file: TraceFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Turn a traffic trace, or a synthetic mix, into the workload of a fleet file.

    FILE is an Azure or BurstGPT CSV, a Mooncake trace or Motley's traffic log (JSON lines).
    MIX is chat, code, short-chat, long-input or mixed-80-20; write ./chat for a file of that name.

    Exit codes: 0 done, 2 bad input.
    """
    configure_logging()
    _check_rate(requests_per_second)
    if not broken_rows_fraction <= 1:
        raise typer.BadParameter("--broken-rows-fraction must be a number from 0 to 1")
    from planner.workloads.workload_source import FileOptions, MixOptions, requests_of

    _check_files(output_file, trace_file, plot_file, source=Path(source))
    requests = requests_of(
        source,
        requests_per_second=requests_per_second,
        file_options=FileOptions(format_name, broken_rows_fraction, sort_rows, model),
        mix_options=MixOptions(duration_seconds, gap_scv, seed),
    )
    inputs = _ends("--input-tokens-up-to", input_ends)
    outputs = _ends("--output-tokens-up-to", output_ends)
    grid = _grid(requests.trace, inputs, outputs, (most_input_ranges, most_output_ranges))
    report = _report(requests, grid, extrapolates=extrapolate)
    _write(report, requests, output_file, trace_file, plot_file)


def _check_rate(requests_per_second: float | None) -> None:
    if requests_per_second is not None and not 0 < requests_per_second < math.inf:
        raise typer.BadParameter(
            f"--requests-per-second is {requests_per_second}; give a finite number above 0"
        )


def _check_files(
    output_file: Path | None, trace_file: Path | None, plot_file: Path | None, *, source: Path
) -> None:
    """Refuse, before the work, what could not be written after it or would replace its input."""
    from planner.documents import check_apart, check_writable

    for path, suffixes in (
        (output_file, (".yaml", ".yml", ".json")),
        (trace_file, (".jsonl",)),
        (plot_file, (".png",)),
    ):
        if path is None:
            continue
        if path.suffix not in suffixes:
            raise typer.BadParameter(f"{path} must end in {' or '.join(suffixes)}; rename it")
        check_apart(path, (source,))
        check_writable(path)
    if plot_file is not None:
        from planner.plots import check_plots

        check_plots()


def _ends(option: str, text: str | None) -> tuple[int, ...] | None:
    """Return the numbers of a list such as `100,1000`."""
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{option} is {text!r}; give whole numbers with commas between, such as 100,1000"
        ) from None


def _grid(
    trace: Trace,
    inputs: tuple[int, ...] | None,
    outputs: tuple[int, ...] | None,
    most_ranges: tuple[int, int],
) -> Grid:
    from planner.workloads.grid import Grid

    chosen = Grid.chosen(trace, most_input_ranges=most_ranges[0], most_output_ranges=most_ranges[1])
    try:
        return Grid(inputs or chosen.input_tokens_up_to, outputs or chosen.output_tokens_up_to)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _report(requests: WorkloadSource, grid: Grid, *, extrapolates: bool) -> WorkloadReport:
    from planner.workloads.trace_summary import summary_of
    from planner.workloads.trace_workloads import traced_workload
    from planner.workloads.workload_report import WorkloadReport

    traced = traced_workload(
        requests.trace,
        requests_per_second=requests.requests_per_second,
        grid=grid,
        extrapolates=extrapolates,
    )
    return WorkloadReport(
        source=requests.name,
        summary=summary_of(requests.trace),
        requests_by_model=requests.requests_by_model,
        traced=traced,
        notes=(*requests.notes, *traced.histogram.notes),
    )


def _write(
    report: WorkloadReport,
    requests: WorkloadSource,
    output_file: Path | None,
    trace_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Print the report, and write the files asked for once every content is known."""
    from planner.documents import write_atomically
    from planner.workloads.workload_report import print_workload

    contents: dict[Path, str | bytes] = {}
    if output_file is not None:
        contents[output_file] = _section(report, is_json=output_file.suffix == ".json")
    if trace_file is not None:
        from planner.workloads.trace_writer import traffic_lines

        contents[trace_file] = "".join(traffic_lines(requests.planned_trace()))
    if plot_file is not None:
        from planner.plots import png_of
        from planner.workloads.workload_plot import workload_figure

        contents[plot_file] = png_of(workload_figure(report, requests.trace.arrival_seconds))
    console = output()
    print_workload(report, console)
    for path, content in contents.items():
        write_atomically(path, content)
        console.print(f"{path} written", markup=False, soft_wrap=True)


def _section(report: WorkloadReport, *, is_json: bool) -> str:
    from planner.workloads.workload_file import workload_json, workload_yaml

    if is_json:
        return workload_json(report.workload)
    return workload_yaml(report.workload, report.comments())
