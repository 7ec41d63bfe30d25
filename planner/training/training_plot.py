"""A training plan as a picture: devices over time, and each batch against what it is compared to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.training.training_plan import BatchPlan, TrainingPlan


def training_figure(plan: TrainingPlan) -> Figure:
    """Return the first batch's groups over time beside the times of all batches.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    figure = new_figure(width_inches=13, height_inches=4.5)
    groups, batches = figure.subplots(1, 2)
    figure.suptitle(f"{plan.model} on {plan.cluster.num_devices} devices")
    _draw_groups(groups, plan.batches[0])
    _draw_batches(batches, plan)
    return figure


def _draw_groups(axes: Axes, batch: BatchPlan) -> None:
    """Draw each group as boxes on its devices, coloured by degree; white is waiting."""
    begun = 0.0
    degrees = sorted({group.degree for part in batch.micro_batches for group in part.groups})
    labelled: set[int] = set()
    for part in batch.micro_batches:
        for group in part.groups:
            colour = f"C{degrees.index(group.degree) % 10}"
            name = "_nolegend_" if group.degree in labelled else f"degree {group.degree}"
            labelled.add(group.degree)
            for start, count in _blocks(group.ranks):
                axes.barh(
                    start - 0.5,
                    group.predicted_seconds,
                    height=count,
                    left=begun,
                    align="edge",
                    color=colour,
                    edgecolor="white",
                    linewidth=0.5,
                    label=name,
                )
                name = "_nolegend_"
        begun += part.predicted_seconds
        axes.axvline(begun, color="black", linewidth=0.8)
    axes.set_title("batch 0: groups")
    axes.set_xlabel("seconds")
    axes.set_ylabel("rank")
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _draw_batches(axes: Axes, plan: TrainingPlan) -> None:
    numbers = range(len(plan.batches))
    for name, marker in (("static", "s"), ("homogeneous", "^")):
        others = [getattr(batch, name) for batch in plan.batches]
        shown = [(i, other) for i, other in zip(numbers, others, strict=True) if other is not None]
        axes.scatter(
            [i for i, _ in shown],
            [other.predicted_seconds for _, other in shown],
            marker=marker,
            label=name,
        )
    axes.scatter(numbers, [b.predicted_seconds for b in plan.batches], marker="o", label="plan")
    axes.scatter(numbers, [b.lower_bound_seconds for b in plan.batches], marker="_", label="bound")
    axes.set_title("time of each batch")
    axes.set_xlabel("batch")
    axes.set_ylabel("seconds")
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, len(plan.batches) - 0.5)
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=8)


def _blocks(ranks: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return runs of consecutive ranks as first rank and count."""
    blocks: list[tuple[int, int]] = []
    for rank in ranks:
        if blocks and rank == sum(blocks[-1]):
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + 1)
        else:
            blocks.append((rank, 1))
    return blocks
