"""`motley plan explain` and `motley plan pareto`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.console import configure_logging, output
from planner.fleet.fleet_cli import (
    ConfigFile,
    Gap,
    OutputFile,
    PlotFile,
    TimeLimit,
    check_finite,
    check_outputs,
)

if TYPE_CHECKING:
    from planner.fleet.pareto import ParetoPoint

Seconds = Annotated[
    float, typer.Option(min=0.1, help="For all changed fleets; what is not reached is left out.")
]
Factors = Annotated[
    str | None,
    typer.Option(metavar="X,X,...", help="Factors on every latency limit, such as 0.5,1,2."),
]


def explain(
    file: ConfigFile,
    time_limit_seconds: TimeLimit = 60.0,
    gap_fraction: Gap = 1e-6,
    changes_seconds: Seconds = 60.0,
) -> None:
    """Say what binds the cheapest fleet, and what one more or one fewer of each offer is worth.

    FILE is that of `motley plan fleet`. Latencies are not replayed.

    Exit codes: as of `motley plan fleet`.
    """
    configure_logging()
    check_finite(time_limit_seconds, gap_fraction, changes_seconds)
    from planner.documents import read_document
    from planner.fleet.fleet_config import FleetConfig

    config = read_document(file, FleetConfig).model_copy(update={"verification": None})

    from planner.fleet.explain import explanation, print_explanation
    from planner.fleet.plan import FleetOutcome, FleetPlanner, Search, fleet_inputs
    from planner.fleet.planning_progress import planning_progress

    with planning_progress() as show:
        search = Search(
            time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction, on_progress=show
        )
        inputs = fleet_inputs(config, folder=file.parent)
        planner = FleetPlanner(inputs, search)
        solved = planner.first()
        if isinstance(solved, FleetOutcome):
            raise solved.failure(file)
        plan = solved.plan.model_copy(update={"single_type": planner.single_types(solved)})
        show("solving changed fleets", 0.0)
        found = explanation(
            inputs,
            solved,
            solver=search.solver,
            seconds=changes_seconds,
            gap_fraction=gap_fraction,
            clock=search.clock,
        )
    print_explanation(plan, found, output())


def pareto(
    file: ConfigFile,
    factors: Factors = None,
    time_limit_seconds: TimeLimit = 60.0,
    gap_fraction: Gap = 1e-4,
    output_file: OutputFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Print the cheapest fleet under tighter and looser latency limits.

    FILE is that of `motley plan fleet`. The program alone is solved: latency not verified.

    Exit codes: 0 done, also where no fleet meets some limits; 1 no solver works, 2 bad input.
    """
    configure_logging()
    check_finite(time_limit_seconds, gap_fraction)
    from planner.documents import read_document, write_atomically
    from planner.fleet.fleet_config import FleetConfig

    check_outputs(output_file, plot_file, inputs=(file,))
    chosen = _factors(factors)
    config = read_document(file, FleetConfig)

    import json

    from planner.fleet import pareto as front
    from planner.fleet.pareto_report import front_table
    from planner.fleet.plan import Search
    from planner.fleet.planning_progress import planning_progress

    with planning_progress() as show:
        search = Search(
            time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction, on_progress=show
        )
        points = front.pareto(
            config, folder=file.parent, search=search, factors=chosen or front.FACTORS
        )
    output().print(front_table(points))
    output().print("latency not verified", markup=False)
    if output_file is not None:
        content = {"latency": "latency not verified", "points": [asdict(p) for p in points]}
        write_atomically(output_file, json.dumps(content, indent=2) + "\n")
        print(f"front written to {output_file}")
    if plot_file is not None:
        _plot(plot_file, points)


def _plot(plot_file: Path, points: tuple[ParetoPoint, ...]) -> None:
    from planner.documents import write_atomically
    from planner.fleet.plan_plot import front_figure
    from planner.plots import png_of

    write_atomically(plot_file, png_of(front_figure(points)))
    print(f"plot written to {plot_file}")


def _factors(words: str | None) -> tuple[float, ...]:
    if words is None:
        return ()
    try:
        factors = tuple(float(word) for word in words.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(0.01 <= factor <= 100 for factor in factors):
        raise typer.BadParameter(
            f"--factors is {words!r}; give numbers from 0.01 to 100, such as 0.5,1,2"
        )
    return factors
