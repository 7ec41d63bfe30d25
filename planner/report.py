"""A fleet plan as tables for the terminal."""

from rich.console import Console
from rich.table import Table

from planner.fleet_plan import FleetPlan


def print_plan(plan: FleetPlan, console: Console) -> None:
    """Print replicas, shares, the comparison with single-type fleets, and what is not known."""
    console.print(_replicas_table(plan))
    console.print(_shares_table(plan))
    console.print(_single_type_table(plan))
    for line in summary_lines(plan):
        console.print(line, markup=False, soft_wrap=True)


def summary_lines(plan: FleetPlan) -> list[str]:
    """Return cost, proof, comparison and the state of the latency, a sentence a line."""
    mix = " + ".join(f"{row.replicas} x {row.offer}" for row in plan.replicas)
    proof = (
        f"{plan.status}: bound {usd(plan.bound_usd_per_hour)}/h, gap {plan.gap_fraction:.2%}, "
        f"{plan.solver}, {plan.solve_seconds:.2f} s"
    )
    lines = [f"fleet: {mix} = {usd(plan.cost_usd_per_hour)}/h ({proof})", _comparison(plan)]
    if plan.solver_fallbacks:
        lines.append(f"solver fallbacks: {plan.solver_fallbacks}; see the log for the reasons")
    return [*lines, plan.latency]


def usd(amount: float) -> str:
    """Return dollars with two decimals, or with three significant digits under ten cents."""
    return f"${amount:.3g}" if 0 < amount < 0.1 else f"${amount:,.2f}"


def _comparison(plan: FleetPlan) -> str:
    single = plan.cheapest_single_type
    if single is None or single.cost_usd_per_hour is None:
        return "cheapest single type: none can serve the workload alone"
    named = f"{single.replicas} x {single.offer} = {usd(single.cost_usd_per_hour)}/h"
    if single.cost_usd_per_hour <= plan.cost_usd_per_hour:
        return f"cheapest single type: {named}; mixing saves nothing"
    saved = 1 - plan.cost_usd_per_hour / single.cost_usd_per_hour
    return f"cheapest single type: {named}; the mix saves {saved:.1%}"


def _replicas_table(plan: FleetPlan) -> Table:
    table = Table(title=f"replicas of {', '.join(dict.fromkeys(r.model for r in plan.replicas))}")
    table.add_column("offer", overflow="fold")
    for title in ("replicas", "cap", "$/h each", "$/h", "load", "used", "limit"):
        table.add_column(title, justify="right")
    for row in plan.replicas:
        table.add_row(
            row.offer,
            str(row.replicas),
            "-" if row.max_replicas is None else str(row.max_replicas),
            usd(row.price_usd_per_hour),
            usd(row.cost_usd_per_hour),
            f"{row.load_replicas:.2f}",
            f"{row.utilisation_fraction:.1%}",
            f"{row.utilisation_limit_fraction:.1%}",
        )
    return table


def _shares_table(plan: FleetPlan) -> Table:
    table = Table(title="shares by request size")
    for title in ("input tokens", "output tokens", "requests/s"):
        table.add_column(title, justify="right")
    table.add_column("served by", overflow="fold")
    for size in plan.sizes:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in size.shares_fraction.items())
        table.add_row(
            f"{size.input_tokens_over + 1}-{size.input_tokens_up_to}",
            f"{size.output_tokens_over + 1}-{size.output_tokens_up_to}",
            f"{size.rate_requests_per_second:.4g}",
            shares or "no requests, nothing planned",
        )
    return table


def _single_type_table(plan: FleetPlan) -> Table:
    table = Table(title="single-type fleets, for comparison")
    table.add_column("offer", overflow="fold")
    table.add_column("replicas", justify="right")
    table.add_column("$/h", justify="right")
    table.add_column("why not", overflow="fold")
    for fleet in plan.single_type:
        cost = fleet.cost_usd_per_hour
        table.add_row(
            fleet.offer,
            "-" if fleet.replicas is None else str(fleet.replicas),
            "-" if cost is None else usd(cost),
            fleet.obstacle,
        )
    return table
