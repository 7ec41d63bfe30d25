"""`motley plan`: parses first, imports the solvers afterwards."""

import math
from pathlib import Path
from typing import Annotated

import typer

from planner.console import configure_logging, output, run_app
from planner.render.cli import render
from planner.workload_cli import workload

app = typer.Typer(add_completion=False, help="Choose hardware.")


def run(arguments: list[str]) -> None:
    """Run `motley plan` with the words after it."""
    run_app(app, arguments, name="motley plan")


@app.callback(invoke_without_command=True)
def plan(context: typer.Context) -> None:
    """Choose hardware: the cheapest fleet for a workload and a price list."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def fleet(
    file: Annotated[Path, typer.Argument()],
    output_file: Annotated[
        Path | None, typer.Option("--output", help="Also write the plan to this JSON file.")
    ] = None,
    time_limit_seconds: Annotated[
        float, typer.Option(min=0.01, help="How long to search for the cheapest counts.")
    ] = 60.0,
    gap_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Stop once the cost is proven this close.")
    ] = 1e-7,
) -> None:
    """Find the cheapest mix of offers that serves a workload, and prove it.

    FILE is YAML: the model, its workload and the offers; configs/fleet/ holds examples.

    Exit codes: 0 planned, 2 bad input, 3 no fleet can serve the workload, 4 none found in time.
    """
    configure_logging()
    if not math.isfinite(time_limit_seconds + gap_fraction):
        raise typer.BadParameter("limits must be finite numbers; correct the option")
    from planner.documents import check_writable, read_document, write_atomically
    from planner.fleet_config import FleetConfig

    if output_file is not None:
        check_writable(output_file)
    config = read_document(file, FleetConfig)

    from planner.errors import InfeasibleError, TimeLimitError
    from planner.plan import plan_fleet
    from planner.report import print_plan

    outcome = plan_fleet(config, time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction)
    if outcome.plan is None:
        failure = InfeasibleError if outcome.status == "infeasible" else TimeLimitError
        raise failure(f"{file}: {outcome.reason}")
    print_plan(outcome.plan, output())
    if output_file is not None:
        write_atomically(output_file, outcome.plan.model_dump_json(indent=2) + "\n")
        print(f"plan written to {output_file}")


app.command()(workload)
app.command()(render)
