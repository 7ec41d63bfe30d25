"""`motley plan training`: parses first, imports the solvers afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.console import configure_logging, output, progress_bar
from planner.errors import TrainingPlanError

if TYPE_CHECKING:
    from planner.training.cluster import Cluster
    from planner.training.islands_used import Chosen
    from planner.training.lengths import AdmittedLengths
    from planner.training.placement import Placement
    from planner.training.sequence_costs import SequenceCosts, TrainingFleet
    from planner.training.training_plan import TrainingPlan

    CostsOn = Callable[[Cluster], SequenceCosts]
    FleetOn = Callable[[Cluster], TrainingFleet]

UNKNOWN_FLOPS_PER_SECOND = 1e12
"""Of a device that no list has, before its costs are fitted."""

JUDGED_BATCHES = 4
"""First global batches by which the islands to start on are chosen."""


class Solver(StrEnum):
    """What looks for groups; `training_plan.py` holds the same names."""

    HEURISTIC = "heuristic"
    MILP = "milp"


ClusterFile = Annotated[
    Path, typer.Argument(metavar="CLUSTER.yaml", help="Devices and links; see configs/training/.")
]
Lengths = Annotated[
    Path | None,
    typer.Option(
        "--lengths",
        help="Tokens of each sequence, one a line; or a YAML or JSON histogram {length: count}.",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences of a global batch.")]
Model = Annotated[
    str | None,
    typer.Option(help="Hub id or folder, whose costs are estimated where none are given."),
]
Costs = Annotated[
    str | None,
    typer.Option(help="File of --calibrate, or published: flexsp-7b, flexsp-13b, flexsp-30b."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Longest sequence admitted; longer ones are dropped and counted."),
]
PadTo = Annotated[int, typer.Option(min=1, help="Pad lengths to multiples of this.")]
Batches = Annotated[int | None, typer.Option(min=1, help="Plan the first batches only.")]
SolverChoice = Annotated[Solver, typer.Option(help="milp begins with the heuristic's plan.")]
TimeLimit = Annotated[float, typer.Option(min=0.01, help="Most that milp takes for a batch.")]
IgnoreHeads = Annotated[
    bool,
    typer.Option(
        "--ignore-heads",
        help="Powers of two whatever the heads, as published; the trainer refuses such plans.",
    ),
]
StaticDegree = Annotated[
    int | None,
    typer.Option(min=1, help="Of the static plan; default: the least that holds --max-tokens."),
]
Place = Annotated[
    bool,
    typer.Option("--place", help="Also choose tensor, pipeline and data degrees over the islands."),
]
AllIslands = Annotated[
    bool,
    typer.Option(
        "--all-islands",
        help="Use every island, also where fewer are predicted faster; so does --place.",
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        help="Fit costs to measured groups (JSON lines of `motley finetune local`) and write them "
        "to --output in place of a plan."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the order drawn from a histogram.")]
OutputFile = Annotated[
    Path | None, typer.Option("--output", help="Write the plan, or the costs, to this file.")
]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Draw the batches to this PNG.")]


def training(
    cluster_file: ClusterFile,
    lengths_file: Lengths = None,
    batch_size: BatchSize = 512,
    model: Model = None,
    costs: Costs = None,
    max_tokens: MaxTokens = None,
    pad_to: PadTo = 1,
    batches: Batches = None,
    solver: SolverChoice = Solver.HEURISTIC,
    time_limit_seconds: TimeLimit = 5.0,
    ignore_heads: IgnoreHeads = False,
    static_degree: StaticDegree = None,
    all_islands: AllIslands = False,
    place: Place = False,
    calibrate: Calibrate = None,
    seed: Seed = 0,
    output_file: OutputFile = None,
    plot_file: PlotFile = None,
) -> None:
    """Plan sequence-parallel groups for each global batch of a training job.

    CLUSTER.yaml holds islands of nodes of devices; see configs/training/.

    Exit codes: 0 planned, 1 no solver works, 2 bad input, 3 a sequence is longer than the cluster
    holds.
    """
    configure_logging()
    from planner.documents import read_document
    from planner.training.cluster import Cluster

    read = (cluster_file, lengths_file, calibrate, None if costs is None else Path(costs))
    _check_outputs((output_file, plot_file), read)
    cluster = read_document(cluster_file, Cluster)
    costs_on = _costs_on(model, costs, cluster, needs_speed=calibrate is None)
    if calibrate is not None:
        _calibrate(calibrate, costs_on(cluster), cluster, output_file)
        return
    admitted = _admitted(lengths_file, max_tokens, pad_to, seed)
    fleet_on = _fleets(costs_on, max_tokens or max(admitted.lengths), ignore_heads)
    chosen = _chosen(cluster, fleet_on, admitted, batch_size, all_islands=all_islands or place)
    _check_degree(chosen.fleet, static_degree)

    planned = partial(_planned, admitted, chosen, num_batches=batches, batch_size=batch_size)
    plan = planned(
        model=model or chosen.fleet.costs.name,
        pad_to=pad_to,
        solver=solver.value,
        time_limit_seconds=time_limit_seconds,
        degree=static_degree,
    )
    plan = _beside_naive(plan, cluster, fleet_on)
    if place:
        plan = plan.model_copy(update={"placement": _placement(plan, model)})
    _give(plan, output_file, plot_file)


def _check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    from planner.documents import check_apart, check_writable

    read = [path for path in inputs if path is not None]
    for path in outputs:
        if path is not None:
            check_apart(path, read)
            check_writable(path)


def _costs_on(
    model: str | None, costs: str | None, cluster: Cluster, *, needs_speed: bool
) -> CostsOn:
    """Return what a job costs on some of the cluster's islands: the same, or estimated for them.

    What is to be calibrated needs no list to say how fast the device is.
    """
    from planner.hardware.catalogue import built_in_catalogue
    from planner.hardware.find_model import find_model
    from planner.training.device_speed import unit_flops_per_second
    from planner.training.estimated_costs import estimated_costs
    from planner.training.find_costs import find_costs

    if costs is not None:
        found = find_costs(costs)
        return lambda _: found
    if model is None:
        raise TrainingPlanError("neither --model nor --costs is given; name one of them")
    catalogue = built_in_catalogue()
    spec = find_model(model, catalogue)
    speed = unit_flops_per_second(cluster, catalogue) if needs_speed else UNKNOWN_FLOPS_PER_SECOND
    return lambda part: estimated_costs(spec, part, flops_per_second=speed)


def _admitted(
    lengths_file: Path | None, max_tokens: int | None, pad_to: int, seed: int
) -> AdmittedLengths:
    from planner.training.lengths import admit, read_lengths

    if lengths_file is None:
        raise TrainingPlanError("--lengths is missing; name a file of sequence lengths")
    lengths = read_lengths(lengths_file, seed=seed)
    try:
        return admit(lengths, most_tokens=max_tokens, pad_to=pad_to)
    except ValueError as error:
        raise TrainingPlanError(f"{lengths_file}: {error}") from None


def _fleets(costs_on: CostsOn, longest: int, ignores_heads: bool) -> FleetOn:
    from planner.training.sequence_costs import TrainingFleet

    return lambda part: TrainingFleet(part, costs_on(part), longest, ignores_heads)


def _chosen(
    cluster: Cluster,
    fleet_on: FleetOn,
    admitted: AdmittedLengths,
    batch_size: int,
    *,
    all_islands: bool,
) -> Chosen:
    """Return the islands to plan on, judged by the first batches."""
    from planner.training.islands_used import Chosen, fastest_islands

    if all_islands or len(cluster.islands) == 1:
        return Chosen(fleet_on(cluster), None)
    judged = list(islice(admitted.batches(batch_size), JUDGED_BATCHES))
    return fastest_islands(cluster, judged, fleet_on)


def _planned(
    admitted: AdmittedLengths,
    chosen: Chosen,
    *,
    num_batches: int | None,
    batch_size: int,
    **words: Any,
) -> TrainingPlan:
    """Plan batch by batch behind a progress bar; say which islands are left out."""
    from planner.training.plan_training import plan_training

    num_planned = -(-len(admitted.lengths) // batch_size)
    with progress_bar() as progress:
        bar = progress.add_task("batches", total=min(num_batches or num_planned, num_planned))
        plan = plan_training(
            admitted,
            chosen.fleet,
            batch_size=batch_size,
            num_batches=num_batches,
            on_batch=lambda _: progress.advance(bar),
            **words,
        )
    if chosen.note is None:
        return plan
    return plan.model_copy(update={"notes": (chosen.note, *plan.notes)})


def _beside_naive(plan: TrainingPlan, cluster: Cluster, fleet_on: FleetOn) -> TrainingPlan:
    """Say of unlike devices what passing over the difference would take."""
    from planner.training.mixed_comparison import mixed_notes

    seconds = sum(batch.predicted_seconds for batch in plan.batches)
    notes = mixed_notes(cluster, [batch.lengths for batch in plan.batches], seconds, fleet_on)
    return plan.model_copy(update={"notes": (*plan.notes, *notes)})


def _check_degree(fleet: TrainingFleet, static_degree: int | None) -> None:
    if static_degree is not None and static_degree not in fleet.degrees:
        raise TrainingPlanError(
            f"--static-degree {static_degree}: offered are {list(fleet.degrees)}; take one"
        )


def _calibrate(file: Path, base: SequenceCosts, cluster: Cluster, output_file: Path | None) -> None:
    from datetime import UTC, datetime

    import yaml

    from planner.documents import write_atomically
    from planner.training.calibration import calibrate, read_measurements
    from planner.training.training_report import print_calibration

    try:
        found = calibrate(read_measurements(file), base, cluster, today=datetime.now(tz=UTC).date())
    except ValueError as error:
        raise TrainingPlanError(f"{file}: {error}") from None
    print_calibration(found, output())
    if output_file is not None:
        content = found.costs.model_dump(mode="json")
        is_json = output_file.suffix == ".json"
        text = found.costs.model_dump_json(indent=1) if is_json else yaml.safe_dump(content)
        write_atomically(output_file, text)
        print(f"costs written to {output_file}")


def _divisible(count: int) -> int:
    """Return the next count that data degrees divide: a power of two, from 8 on a multiple of 8."""
    return 1 << (count - 1).bit_length() if count <= 8 else -(-count // 8) * 8


def _placement(plan: TrainingPlan, model: str | None) -> Placement:
    """Place the model for rows of the longest length, as many as hold a mean batch's tokens or a few more."""
    from planner.hardware.catalogue import built_in_catalogue
    from planner.hardware.find_model import find_model
    from planner.placing.place import place

    if model is None:
        raise TrainingPlanError("--place needs the model's sizes; name it with --model")
    catalogue = built_in_catalogue()
    tokens = sum(sum(batch.lengths) for batch in plan.batches) / len(plan.batches)
    return place(
        plan.cluster,
        find_model(model, catalogue),
        sequence_tokens=plan.max_tokens,
        sequences_per_batch=_divisible(math.ceil(tokens / plan.max_tokens)),
        catalogue=catalogue,
    )


def _give(plan: TrainingPlan, output_file: Path | None, plot_file: Path | None) -> None:
    from planner.documents import write_atomically
    from planner.training.training_report import print_training_plan

    print_training_plan(plan, output())
    if plan.placement is not None:
        from planner.placing.report import print_placement

        print_placement(plan.placement, plan.cluster, output())
    if output_file is not None:
        write_atomically(output_file, plan.model_dump_json(indent=1) + "\n")
        print(f"plan written to {output_file}")
    if plot_file is not None:
        from planner.plots import png_of
        from planner.training.training_plot import training_figure

        write_atomically(plot_file, png_of(training_figure(plan)))
        print(f"plot written to {plot_file}")
