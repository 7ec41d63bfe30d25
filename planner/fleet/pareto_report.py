"""The front of cost against latency as a table."""

from collections.abc import Iterable

from rich.table import Table

from planner.fleet.money import usd
from planner.fleet.pareto import ParetoPoint


def front_table(points: Iterable[ParetoPoint]) -> Table:
    """Return a row for each point, the tightest limits first."""
    table = Table(title="cost against the latency target (latency not verified)")
    table.add_column("limits", justify="right")
    table.add_column("", overflow="fold")
    table.add_column("$/h", justify="right")
    table.add_column("fleet", overflow="fold")
    for point in points:
        cost = "-" if point.cost_usd_per_hour is None else usd(point.cost_usd_per_hour)
        table.add_row(f"x {point.factor:g}", point.limits, cost, point.mix)
    return table
