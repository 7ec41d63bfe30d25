"""A placement as tables for the terminal."""

from rich.console import Console
from rich.table import Table

from planner.training.cluster import Cluster
from planner.training.placement import Placement

_GIB = 2**30


def print_placement(placement: Placement, cluster: Cluster, console: Console) -> None:
    """Print degrees, stages, times of the step beside those of plain rank order, and why."""
    console.print(_stages_table(placement, cluster))
    for line in summary_lines(placement):
        console.print(line, markup=False, soft_wrap=True)


def summary_lines(placement: Placement) -> list[str]:
    """Return degrees, times and reasons, one a line."""
    return [
        f"placement: {degrees_text(placement)}, {placement.num_micro_batches} micro-batches of "
        f"{placement.micro_batch_sequences} x {placement.sequence_tokens:,} tokens a copy",
        f"step: {placement.predicted_seconds:.4g} s predicted{_simulated(placement)}; plain rank "
        f"order {_naive(placement)}",
        *(f"why: {reason}" for reason in placement.reasons),
    ]


def degrees_text(placement: Placement) -> str:
    """Return the degrees in words."""
    return (
        f"tensor {placement.tensor}, context {placement.context}, "
        f"pipeline {placement.pipeline}, data {placement.data}"
    )


def _simulated(placement: Placement) -> str:
    simulated = placement.simulated_seconds
    if not simulated:
        return ""
    apart = placement.predicted_seconds / simulated - 1
    return f", {simulated:.4g} s simulated ({apart:+.2%})"


def _naive(placement: Placement) -> str:
    same = placement.naive_seconds
    said = "of these degrees does not fit" if same is None else f"{same:.4g} s with these degrees"
    best = placement.best_naive
    if best is None:
        return f"{said}, none of every device fits"
    return f"{said}, {best.predicted_seconds:.4g} s at best"


def _stages_table(placement: Placement, cluster: Cluster) -> Table:
    table = Table(title="stages: a micro-batch forward and backward, a step's gradients")
    for column in ("stage", "island", "layers", "ranks", "ms", "GiB", "gradients", "to the next"):
        is_text = column in ("island", "gradients", "to the next")
        table.add_column(column, justify="left" if is_text else "right")
    for number, stage in enumerate(placement.stages):
        island = cluster.islands[stage.island]
        table.add_row(
            str(number),
            island.name,
            str(stage.num_layers),
            ranks_text(stage.ranks),
            f"{stage.forward_seconds * 1e3:.4g} + {stage.backward_seconds * 1e3:.4g}",
            f"{stage.memory_bytes / _GIB:.1f} of {int(island.memory_bytes) / _GIB:.0f}",
            _by(stage.gradient_seconds, stage.data_link),
            _by(stage.next_seconds, stage.next_link),
        )
    return table


def _by(seconds: float, link: str) -> str:
    return "-" if link == "none" else f"{seconds * 1e3:.3g} ms by {link}"


def ranks_text(ranks: tuple[int, ...]) -> str:
    """Return ranks in short: runs as first-last."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    return ",".join("-".join(map(str, run)) for run in runs)
