"""What the picks are worth: rows of accuracy and loss, a front for each goal, tables and a plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.tryage_library import Losses
from rich.console import Console
from rich.table import Table

from planner.plots import new_figure, png_of
from router.objective import objective

TIE_NATS = 0.02
"""Losses this close count as equal in the row of ties."""
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 4.0)
"""Nats that one would pay for going from the worst model to the best on a goal."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Front:
    """A sweep of one goal's weight."""

    goal: str
    label: str
    """Of the cost's axis."""
    weights: tuple[float, ...]
    losses: tuple[float, ...]
    """Mean true loss of the picks, nats a token."""
    costs: tuple[float, ...]
    """Mean cost of the picks."""
    single_losses: tuple[float, ...]
    """Mean true loss of each model alone."""
    single_costs: tuple[float, ...]

    def as_json(self) -> Row:
        """Return the sweep as it is written."""
        return asdict(self)


def accuracy_rows(
    names: Sequence[str], *, fitting: Losses, judged: Losses, predicted: Losses
) -> list[Row]:
    """Return how good each way to pick is.

    Args:
        names: Of the models.
        fitting: True losses of the prompts that the best single model is chosen on.
        judged: True losses. Shape: (num_prompts, num_models), as all three.
        predicted: Of the judged prompts.
    """
    best_single = int(fitting.mean(axis=0).argmin())
    lowest_single = int(judged.mean(axis=0).argmin())
    num_prompts, num_models = judged.shape
    everyone = np.arange(num_prompts)
    ways = {
        "router": predicted.argmin(axis=1),
        f"best single on other prompts ({names[best_single]})": np.full(num_prompts, best_single),
        f"lowest single on these ({names[lowest_single]})": np.full(num_prompts, lowest_single),
        "oracle": judged.argmin(axis=1),
    }
    rows = [pick_row(way, judged[everyone, picks], judged) for way, picks in ways.items()]
    random = [pick_row("", judged[:, one], judged) for one in range(num_models)]
    keys = ("optimal_fraction", "tied_fraction", "mean_loss")
    mean = {key: float(np.mean([row[key] for row in random])) for key in keys}
    return [rows[0], {"way": "random", **mean}, *rows[1:]]


def pick_row(way: str, losses: Losses, judged: Losses) -> Row:
    """Return a way's figures from the true losses of its picks. Shape: (num_prompts,)."""
    least = judged.min(axis=1)
    return {
        "way": way,
        "optimal_fraction": float(np.mean(losses <= least)),
        "tied_fraction": float(np.mean(losses <= least + TIE_NATS)),
        "mean_loss": float(losses.mean()),
    }


def sweep(
    goal: str, label: str, costs: Sequence[float], predicted: Losses, judged: Losses
) -> Front:
    """Return the picks' mean loss and cost for every weight of a goal, all models eligible."""
    losses, spent = [], []
    for weight in WEIGHTS:
        picks = [
            int(np.argmin(objective(row, costs={goal: costs}, weights={goal: weight}).totals))
            for row in predicted.tolist()
        ]
        losses.append(float(judged[np.arange(len(judged)), picks].mean()))
        spent.append(float(np.take(costs, picks).mean()))
    singles = tuple(judged.mean(axis=0).tolist())
    return Front(goal, label, WEIGHTS, tuple(losses), tuple(spent), singles, tuple(costs))


def show(
    console: Console,
    rows: Sequence[Row],
    fronts: Sequence[Front],
    *,
    paper_fraction: float,
    png: Path,
) -> None:
    """Print the tables and draw the fronts."""
    table = Table(title="The best model for a prompt")
    for column in ("pick", "is the best model", f"within {TIE_NATS} nats of it", "mean loss, nats"):
        table.add_column(column, justify="left" if column == "pick" else "right")
    for row in rows:
        shares = (f"{row[key]:.1%}" for key in ("optimal_fraction", "tied_fraction"))
        table.add_row(row["way"], *shares, f"{row['mean_loss']:.4f}")
    paper = "Tryage, arXiv 2308.11601: other data, another library"
    table.add_row(paper, f"{paper_fraction:.1%}", "", "")
    console.print(table)
    for front in fronts:
        console.print(_table(front))
    png.write_bytes(_plot(fronts))


def _table(front: Front) -> Table:
    table = Table(title=f"Front of the goal {front.goal}")
    for column in ("weight, nats", "mean loss, nats", front.label):
        table.add_column(column, justify="right")
    for weight, loss, cost in zip(front.weights, front.losses, front.costs, strict=True):
        table.add_row(f"{weight:g}", f"{loss:.4f}", f"{cost:.4f}")
    return table


def _plot(fronts: Sequence[Front]) -> bytes:
    figure = new_figure(width_inches=5.5 * len(fronts), height_inches=4.2)
    for place, front in enumerate(fronts, start=1):
        axes = figure.add_subplot(1, len(fronts), place)
        axes.plot(front.costs, front.losses, marker="o", label="router, weight rising to the left")
        axes.scatter(front.single_costs, front.single_losses, marker="x", label="one model alone")
        axes.set_xlabel(front.label)
        axes.set_ylabel("mean loss, nats a token")
        axes.set_title(f"Goal: {front.goal}")
        axes.legend()
    return png_of(figure)
