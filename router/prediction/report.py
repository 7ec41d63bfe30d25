"""The table of an evaluation, and the plot of its front."""

from collections.abc import Mapping, Sequence
from io import StringIO

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from planner.plots import new_figure, png_of
from router.prediction.evaluation import Outcome, Quality
from router.prediction.frontier import average_quality, means_of
from router.prediction.latency import DecisionTime
from router.prediction.metrics import pick_shares, scores_of

_HEADS = ("strict", "tie-aware", "gap closed", "AIQ", "cost", "at parity", "parity cost", "ECE")


def quality_table(methods: Mapping[str, tuple[Outcome, Quality]]) -> str:
    """Return each method beside the best single model, random and the oracle.

    All methods were judged on the same prompts; costs are shares of the best single model's.
    """
    outcome, _ = next(iter(methods.values()))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for head in ("accuracy", *_HEADS):
        table.add_column(head, justify="right")
    for name, cells in _baselines(outcome):
        table.add_row(name, *cells, *[""] * (1 + len(_HEADS) - len(cells)))
    for name, (own, quality) in methods.items():
        table.add_row(name, *_cells(own, quality))
    return _rendered(table)


def notes(outcome: Outcome, quality: Quality) -> list[str]:
    """Return what the table's figures mean, a line each."""
    shares, gain = quality.shares, quality.gain
    return [
        f"gain over the best single model {100 * gain.value:+.2f} points, 95 % interval "
        f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f} (paired bootstrap over prompts)",
        f"strict: the {100 * shares.unique_fraction:.0f} % of prompts with one best model; tie-aware: "
        f"all but the {100 * shares.failed_fraction:.0f} % that every model fails",
        f"at parity: the price's weight that training folds chose for the best single model's "
        f"accuracy plus one standard error; most expensive model's share of picks along the sweep "
        f"{100 * outcome.points[0].top_tier_fraction:.0f} to "
        f"{100 * outcome.points[-1].top_tier_fraction:.0f} %",
        "cost: input price x prompt tokens (bytes / 4) + output price x 100 tokens",
    ]


def latency_lines(times: Sequence[DecisionTime]) -> list[str]:
    """Return the time of a decision by prompt length."""
    return [
        f"decision for {one.num_characters:,} characters: p50 {1e3 * one.median_seconds:.2f} ms, "
        f"p99 {1e3 * one.p99_seconds:.2f} ms (one thread, processor time)"
        for one in times
    ]


def front_png(outcome: Outcome, models: Sequence[str]) -> bytes:
    """Return a plot of quality against cost: the sweep of the price's weight, and single models.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    figure = new_figure(width_inches=7, height_inches=4.5)
    axes = figure.add_subplot()
    axes.plot(
        [1e6 * one.cost_usd for one in outcome.points],
        [one.quality for one in outcome.points],
        marker=".",
        label="predicted loss + weight of the price",
    )
    for model, (cost, quality) in zip(
        models, means_of(outcome.costs_usd, outcome.scores), strict=True
    ):
        axes.plot(1e6 * cost, quality, "k.")
        axes.annotate(model, (1e6 * cost, quality), fontsize=7)
    axes.set_xlabel("mean cost of a prompt, millionths of a dollar")
    axes.set_ylabel("mean score, held out")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return png_of(figure)


def aiq_of(outcome: Outcome) -> float:
    """Return the area under the sweep's hull, up to the dearest model's mean cost."""
    points = [(one.cost_usd, one.quality) for one in outcome.points]
    return average_quality(points, most_cost=float(outcome.costs_usd.mean(axis=0).max()))


def _baselines(outcome: Outcome) -> list[tuple[str, list[str]]]:
    scores, costs = outcome.scores, outcome.costs_usd
    single_cost = float(scores_of(costs, outcome.single).mean()) or 1.0
    # Of equally good models the oracle takes the cheapest.
    best = np.where(scores >= scores.max(axis=1, keepdims=True), costs, np.inf).argmin(axis=1)
    singles = average_quality(means_of(costs, scores), most_cost=float(costs.mean(axis=0).max()))
    rows = []
    for name, picks, aiq in (
        ("best single", outcome.single, singles),
        ("oracle", best, None),
    ):
        shares = pick_shares(scores, picks)
        picked, single = scores_of(scores, picks), scores_of(scores, outcome.single)
        gap = scores_of(scores, best).mean() - single.mean()
        rows.append(
            (
                name,
                [
                    f"{picked.mean():.4f}",
                    f"{100 * shares.strict_fraction:.1f} %",
                    f"{100 * shares.tie_aware_fraction:.1f} %",
                    f"{100 * (picked.mean() - single.mean()) / gap:.1f} %" if gap else "",
                    "" if aiq is None else f"{aiq:.4f}",
                    f"{scores_of(costs, picks).mean() / single_cost:.2f}",
                ],
            )
        )
    rows.insert(1, ("random", _random_cells(outcome, single_cost)))
    return rows


def _random_cells(outcome: Outcome, single_cost: float) -> list[str]:
    """Return what a pick drawn evenly is expected to get."""
    scores = outcome.scores
    every = [pick_shares(scores, np.full(len(scores), model)) for model in range(scores.shape[1])]
    single, best = scores_of(scores, outcome.single).mean(), scores.max(axis=1).mean()
    gap = f"{100 * (scores.mean() - single) / (best - single):.1f} %" if best > single else ""
    return [
        f"{scores.mean():.4f}",
        f"{100 * np.mean([one.strict_fraction for one in every]):.1f} %",
        f"{100 * np.mean([one.tie_aware_fraction for one in every]):.1f} %",
        gap,
        "",
        f"{outcome.costs_usd.mean() / single_cost:.2f}",
    ]


def _cells(outcome: Outcome, quality: Quality) -> list[str]:
    return [
        f"{quality.accuracy:.4f}",
        f"{100 * quality.shares.strict_fraction:.1f} %",
        f"{100 * quality.shares.tie_aware_fraction:.1f} %",
        f"{100 * quality.gap_closed:.1f} %",
        f"{aiq_of(outcome):.4f}",
        f"{quality.cost_fraction:.2f}",
        f"{quality.parity_accuracy:.4f}",
        f"{quality.parity_cost_fraction:.2f}",
        f"{quality.calibration_error:.3f}",
    ]


def _rendered(table: Table) -> str:
    buffer = StringIO()
    Console(file=buffer, width=120, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
