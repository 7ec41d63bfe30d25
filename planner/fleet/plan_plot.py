"""A plan as a picture: the mix and its load, single-type fleets, cost against the latency target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.fleet.fleet_plan import FleetPlan
    from planner.fleet.pareto import ParetoPoint


def plan_figure(plan: FleetPlan, points: Sequence[ParetoPoint]) -> Figure:
    """Return the plan's figure; without points the front is left out.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    num_panels = 3 if points else 2
    figure = new_figure(width_inches=5.5 * num_panels, height_inches=4.5)
    axes = figure.subplots(1, num_panels)
    figure.suptitle(f"${plan.cost_usd_per_hour:,.2f}/h; {plan.latency}", wrap=True)
    _draw_mix(axes[0], plan)
    _draw_single_types(axes[1], plan)
    if points:
        draw_front(axes[2], points)
        axes[2].scatter([1.0], [plan.cost_usd_per_hour], color="tab:green", zorder=3)
        axes[2].annotate("this plan", (1.0, plan.cost_usd_per_hour), fontsize=8)
    return figure


def front_figure(points: Sequence[ParetoPoint]) -> Figure:
    """Return cost against the latency target alone.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    figure = new_figure(width_inches=7, height_inches=4.5)
    draw_front(figure.subplots(), points)
    return figure


def _draw_mix(axes: Axes, plan: FleetPlan) -> None:
    names = [f"{row.replicas} x {row.offer}\n{row.model}" for row in plan.replicas]
    used = [100 * row.utilisation_fraction for row in plan.replicas]
    limits = [100 * row.utilisation_limit_fraction for row in plan.replicas]
    places = range(len(names))
    axes.set_title("load of each replica")
    axes.barh(places, used, color="tab:blue", label="planned")
    axes.scatter(limits, places, color="tab:red", marker="|", s=400, label="limit")
    axes.set_yticks(places, names, fontsize=8)
    axes.set_xlabel("% of what one replica sustains")
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)


def _draw_single_types(axes: Axes, plan: FleetPlan) -> None:
    axes.set_title("cost against fleets of a single type")
    several = len(plan.models) > 1
    fleets = [fleet for fleet in plan.single_type if fleet.cost_usd_per_hour is not None]
    names = ["this plan"] + [
        f"{fleet.replicas} x {fleet.offer}" + (f"\n{fleet.model}" if several else "")
        for fleet in fleets
    ]
    costs = [plan.cost_usd_per_hour, *(fleet.cost_usd_per_hour or 0.0 for fleet in fleets)]
    colors = ["tab:green", *("tab:gray" for _ in fleets)]
    axes.barh(range(len(names)), costs, color=colors)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("USD an hour")
    axes.invert_yaxis()


def draw_front(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    """Draw cost over the factor on the latency limits; infeasible factors are marked."""
    axes.set_title("cost against the latency target\n(by the program, latency not verified)")
    known = [point for point in points if point.cost_usd_per_hour is not None]
    axes.step(
        [point.factor for point in known],
        [point.cost_usd_per_hour or 0.0 for point in known],
        where="post",
        marker="o",
    )
    for point in points:
        if point.cost_usd_per_hour is None:
            axes.axvline(point.factor, color="tab:red", linestyle=":", label="no fleet")
    axes.axvline(1.0, color="tab:gray", linewidth=0.8)
    axes.set_xlabel("factor on every latency limit")
    axes.set_ylabel("USD an hour")
    axes.set_ylim(bottom=0)
