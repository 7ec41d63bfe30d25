"""The table, the bars and the plots of finished runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.federated_arms import BY_NAME
from benchmarks.federated_curves import Run, middle, ratios
from benchmarks.speculation_bars import Bar
from rich.console import Console
from rich.table import Table

from planner.plots import new_figure, png_of

LEAST_RATIO = 10.0
LEAST_IMPROVEMENT = 0.05

Runs = Mapping[str, Sequence[Run]]


def figures_of(runs: Runs, *, target: float) -> dict[str, Any]:
    """Return every arm's figures, and the bars.

    Args:
        runs: By arm, one a seed; `dense` and `ours` among them.
        target: Fraction of the dense runs' improvement.
    """
    rows = {name: _row(runs, name, target) for name in runs}
    improvement = median(run.improvement for run in runs["dense"])
    bars = [
        Bar("dense bytes / our bytes to the target", rows["ours"]["ratio"], LEAST_RATIO),
        Bar("improvement of dense over the base, nats", improvement, LEAST_IMPROVEMENT),
    ]
    packed = rows.get("no-sparsity", {}).get("ratio")
    ratio = rows["ours"]["ratio"]
    return {
        "bars": [bar.as_json() for bar in bars],
        # Of a dense exchange whose tensors stand in one array, as ours do.
        "ratio_to_packed_dense": ratio / packed if ratio and packed else None,
        "arms": rows,
        "runs": {name: [_document(run) for run in own] for name, own in runs.items()},
    }


def _row(runs: Runs, name: str, target: float) -> dict[str, Any]:
    dense, own = runs["dense"], runs[name]
    each = ratios(dense, own, target)
    at_target_or_end = [
        run.reached(one.target(target)) or run.points[-1]
        for one, run in zip(dense, own, strict=False)
    ]
    budgets = [
        (run.reached(one.target(target)) or run.points[-1]).num_bytes
        for one, run in zip(dense, runs["ours"], strict=True)
    ]
    at_budget = [run.at_bytes(budget) for run, budget in zip(own, budgets, strict=False)]
    errors = [p.aggregation_error for run in own for p in run.points if p.aggregation_error]
    return {
        "title": BY_NAME[name].title,
        "learning_rate": own[0].learning_rate,
        "ratios": each,
        "ratio": middle(each),
        "num_reached": sum(one is not None for one in each),
        "rounds": median(point.round for point in at_target_or_end),
        "num_bytes": median(point.num_bytes for point in at_target_or_end),
        "values_bytes": median(point.values_bytes for point in at_target_or_end),
        "index_bytes": median(point.index_bytes for point in at_target_or_end),
        "header_bytes": median(point.header_bytes for point in at_target_or_end),
        "last_loss": median(run.points[-1].loss for run in own),
        "loss_at_our_bytes": median(point.loss for point in at_budget),
        "worst_domain_loss_at_our_bytes": median(max(p.losses.values()) for p in at_budget),
        "worst_domain_loss": median(max(p.losses.values()) for p in at_target_or_end),
        "least_domain_gain": median(
            min(before - point.losses[name] for name, before in run.points[0].losses.items())
            for run, point in zip(own, at_target_or_end, strict=True)
        ),
        "aggregation_error": median(errors) if errors else None,
        "seconds": median(run.seconds for run in own),
    }


def _document(run: Run) -> dict[str, Any]:
    """Return a run as JSON knows it, a column for each thing that a round has."""
    first, last = run.points[0], run.points[-1]
    return {
        "seed": run.seed,
        "seconds": run.seconds,
        "loss": [round(point.loss, 5) for point in run.points],
        "worst_domain_loss": [round(max(point.losses.values()), 5) for point in run.points],
        "num_bytes": [point.num_bytes for point in run.points],
        "aggregation_error": [_rounded(point.aggregation_error) for point in run.points[1:]],
        "rank": [point.rank for point in run.points[1:]],
        "first_losses": {name: round(loss, 5) for name, loss in first.losses.items()},
        "last_losses": {name: round(loss, 5) for name, loss in last.losses.items()},
    }


def _rounded(error: float | None) -> float | None:
    return None if error is None else round(error, 6)


def show(figures: Mapping[str, Any], runs: Runs, *, folder: Path, target: float) -> None:
    """Print the tables and write the plots."""
    table = Table(
        title=f"Bytes to {target:.0%} of the dense improvement, medians over the seeds; of an arm "
        "that missed it, bytes at its end"
    )
    table.add_column("arm")
    for heading in (
        "fewer bytes", "by seed", "rounds", "MB", "values", "positions", "headers",
        "least gain of a client", "loss at our bytes", "last loss", "aggregation error",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in figures["arms"].values():
        split = (row["values_bytes"], row["index_bytes"], row["header_bytes"])
        error = row["aggregation_error"]
        table.add_row(
            row["title"],
            _times(row["ratio"]),
            " ".join(map(_times, row["ratios"])),
            f"{row['rounds']:.0f}",
            f"{row['num_bytes'] / 1e6:.2f}",
            *(f"{part / max(1, row['num_bytes']):.0%}" for part in split),
            f"{row['least_domain_gain']:.3f}",
            f"{row['loss_at_our_bytes']:.3f}",
            f"{row['last_loss']:.3f}",
            "-" if error is None else f"{error:.3f}",
        )
    console = Console(width=170)
    console.print(table)
    packed = figures["ratio_to_packed_dense"]
    if packed is not None:
        print(f"against a dense exchange with as few headers as ours: {packed:.1f} times fewer")
    for bar in figures["bars"]:
        value = "missed" if bar["value"] is None else f"{bar['value']:.3g}"
        print(f"{bar['name']}: {value}, bar {bar['limit']:g}: {bar['verdict']}")
    for name, content in plots(runs, target=target).items():
        (folder / name).write_bytes(content)
        print(f"written to {folder / name}")


def _times(ratio: float | None) -> str:
    return "missed" if ratio is None else f"{ratio:.1f}"


def plots(runs: Runs, *, target: float) -> dict[str, bytes]:
    """Return PNG files by name: the first seed's curves."""
    exchanges = [n for n in runs if "aggregation" not in BY_NAME[n].changes]
    strategies = ["dense", *(n for n in runs if "aggregation" in BY_NAME[n].changes)]
    first = {name: own[0] for name, own in runs.items()}
    goal = first["dense"].target(target)
    figure = new_figure(width_inches=9, height_inches=5.5)
    axes = figure.subplots()
    for number, name in enumerate(exchanges):
        run, style = first[name], "-" if number < 10 else "--"  # ten colours
        sizes = [point.num_bytes / 1e6 for point in run.points[1:]]
        losses = [point.loss for point in run.points[1:]]
        axes.plot(sizes, losses, style, label=BY_NAME[name].title)
    axes.axhline(goal, color="grey", linestyle=":")
    axes.set(xscale="log", xlabel="MB sent, both directions", ylabel="mean held-out loss, nats")
    axes.legend(fontsize="small")
    files = {"loss-against-bytes.png": png_of(figure)}
    figure = new_figure(width_inches=11, height_inches=4.5)
    left, right = figure.subplots(1, 2)
    for name in strategies:
        points = first[name].points[1:]
        rounds = [point.round for point in points]
        left.plot(rounds, [point.loss for point in points], label=BY_NAME[name].title)
        errors = [point.aggregation_error or 0.0 for point in points]
        right.plot(rounds, errors, label=BY_NAME[name].title)
    left.set(xlabel="round", ylabel="mean held-out loss, nats")
    right.set(xlabel="round", ylabel="relative aggregation error")
    right.set_yscale("symlog", linthresh=1e-2)
    left.legend(fontsize="small")
    files["strategies.png"] = png_of(figure)
    return files
