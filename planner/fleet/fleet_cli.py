"""`motley plan fleet` and `motley plan simulate`: parse first, import the solvers afterwards."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from planner.console import configure_logging, output
from planner.workloads.workload_cli import BrokenRows, SortRows, check_trace_options

ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", show_default=False)]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", show_default=False)]
TimeLimit = Annotated[
    float, typer.Option(min=0.01, help="How long one search for the cheapest counts may take.")
]
Gap = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Stop once the cost is proven this close.")
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", help="Also write the result to this JSON file.")
]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Also draw it to this PNG.")]
Trace = Annotated[
    Path | None,
    typer.Option("--trace", help="Requests to replay; by default drawn from the plan's workload."),
]
Rate = Annotated[
    float | None, typer.Option(help="Rate at which they arrive; by default the trace's own.")
]
Model = Annotated[
    str | None, typer.Option(help="The plan's model that the trace asks for, where it names none.")
]
Lost = Annotated[
    str | None,
    typer.Option(
        metavar="OFFER",
        help="Take one replica away from the start; MODEL/OFFER where several models have the offer.",
    ),
]
LostMarket = Annotated[
    str | None, typer.Option(help="Take every replica of this market away from the start.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws; the same seed, the same result.")]


def fleet(
    file: ConfigFile,
    output_file: OutputFile = None,
    plot_file: PlotFile = None,
    time_limit_seconds: TimeLimit = 60.0,
    gap_fraction: Gap = 1e-7,
) -> None:
    """Find the cheapest mix of offers that serves a workload on time, and prove it.

    FILE is YAML: models with their requests and latency targets, and offers; see configs/fleet/.

    Exit codes: 0 planned, 1 no solver works, 2 bad input, 3 no fleet can serve the workload, 4 none
    found in time.
    """
    configure_logging()
    check_finite(time_limit_seconds, gap_fraction)
    from planner.documents import read_document, write_atomically
    from planner.fleet.fleet_config import FleetConfig

    check_outputs(output_file, plot_file, inputs=(file,))
    config = read_document(file, FleetConfig)

    from planner.fleet.plan import Search, demand_plan
    from planner.fleet.planning_progress import planning_progress
    from planner.fleet.report import print_plan

    with planning_progress() as show:
        search = Search(
            time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction, on_progress=show
        )
        plan = demand_plan(config, file=file, search=search)
        png = None
        if plot_file is not None:
            from planner.fleet.pareto import front_of
            from planner.fleet.plan_plot import plan_figure
            from planner.plots import png_of

            points = front_of(config, folder=file.parent, search=search)
            png = png_of(plan_figure(plan, points))
    print_plan(plan, output())
    if output_file is not None:
        write_atomically(output_file, plan.model_dump_json(indent=2) + "\n")
        print(f"plan written to {output_file}")
    if plot_file is not None and png is not None:
        write_atomically(plot_file, png)
        print(f"plot written to {plot_file}")


def simulate(
    plan_file: PlanFile,
    trace_file: Trace = None,
    requests_per_second: Rate = None,
    model: Model = None,
    broken_rows_fraction: BrokenRows = 0.0,
    sort_rows: SortRows = False,
    without_replica: Lost = None,
    without_market: LostMarket = None,
    seed: Seed = 0,
    output_file: OutputFile = None,
) -> None:
    """Replay requests on a plan and judge its latency targets.

    PLAN is a file of `motley plan fleet --output`. Without a trace, requests are drawn from the
    plan's own workload.

    Exit codes: 0 replayed (met or missed), 2 bad input, 3 a loss leaves requests with nobody.
    """
    configure_logging()
    check_trace_options(requests_per_second, broken_rows_fraction)
    from planner.documents import write_atomically
    from planner.fleet.plan_file import read_plan

    check_outputs(
        output_file, inputs=[plan_file] if trace_file is None else [plan_file, trace_file]
    )
    plan = read_plan(plan_file)

    from planner.fleet.planning_progress import planning_progress
    from planner.fleet.report import latency_table
    from planner.fleet.simulate_plan import Losses, simulate_plan
    from planner.workloads.workload_source import FileOptions

    with planning_progress() as show:
        report = simulate_plan(
            plan,
            trace_file=trace_file,
            requests_per_second=requests_per_second,
            unnamed=model,
            file_options=FileOptions(
                broken_rows_fraction=broken_rows_fraction, sort_rows=sort_rows
            ),
            losses=Losses(without_replica, without_market),
            seed=seed,
            on_progress=show,
        )
    console = output()
    console.print(latency_table(report))
    console.print(f"replayed: {report.replayed}", markup=False, soft_wrap=True)
    console.print(report.in_words, markup=False, soft_wrap=True)
    if output_file is not None:
        state = {"latency_verified": report.is_verified, "latency": report.in_words}
        content = report.model_dump(mode="json") | state
        write_atomically(output_file, json.dumps(content, indent=2) + "\n")
        print(f"report written to {output_file}")


def check_finite(*numbers: float) -> None:
    """Refuse numbers that Typer lets through: NaN and infinity."""
    if not math.isfinite(sum(numbers)):
        raise typer.BadParameter("limits must be finite numbers; correct the option")


def check_outputs(
    output_file: Path | None, plot_file: Path | None = None, *, inputs: Sequence[Path]
) -> None:
    """Check, before the work, that its files can be written after it and replace no input."""
    from planner.documents import check_apart, check_writable

    for path in (output_file, plot_file):
        if path is not None:
            check_apart(path, inputs)
            check_writable(path)
    if plot_file is not None:
        from planner.plots import check_plots

        if plot_file.suffix.lower() != ".png":
            raise typer.BadParameter(f"--plot is {plot_file}; name a .png file")
        check_plots()
