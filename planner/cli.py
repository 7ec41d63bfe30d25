"""`motley plan`: parses first, imports the solvers afterwards."""

import typer

from planner.console import run_app
from planner.drafting.speculate_cli import speculate
from planner.fleet.fleet_cli import fleet, simulate
from planner.fleet.insight_cli import explain, pareto
from planner.profiling.profile_cli import profile
from planner.render.cli import render
from planner.training.training_cli import training
from planner.workloads.workload_cli import workload

app = typer.Typer(add_completion=False, help="Choose hardware.")


def run(arguments: list[str]) -> None:
    """Run `motley plan` with the words after it."""
    run_app(app, arguments, name="motley plan")


@app.callback(invoke_without_command=True)
def plan(context: typer.Context) -> None:
    """Choose hardware: the cheapest fleet for a workload and a price list."""
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command()(fleet)
app.command()(simulate)
app.command()(explain)
app.command()(pareto)
app.command()(workload)
app.command()(profile)
app.command()(training)
app.command()(render)
app.command()(speculate)
