"""What the figures are held against: bars with met or missed, and the table of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and what it must reach; None where it could not be measured."""

    name: str
    value: float | None
    limit: float
    is_ceiling: bool = False
    """Whether `limit` is the most the value may be, not the least."""
    beside: float | None = None
    """The same figure over all prompts, for comparison only."""

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.value is None:
            return "not measured"
        is_met = self.value <= self.limit if self.is_ceiling else self.value >= self.limit
        return "met" if is_met else "MISSED"

    def as_json(self) -> dict[str, Any]:
        """Return the bar as plain values."""
        return {**asdict(self), "verdict": self.verdict}


def bars_table(title: str, bars: Iterable[Bar]) -> Table:
    """Return the bars as a table to print."""
    table = Table(title=title)
    table.add_column("bar")
    for heading in ("wanted", "measured", "all prompts", "verdict"):
        table.add_column(heading, justify="right")
    for bar in bars:
        table.add_row(
            bar.name,
            f"{'<=' if bar.is_ceiling else '>='} {bar.limit:g}",
            _number(bar.value),
            _number(bar.beside),
            bar.verdict,
        )
    return table


def shape_bars(rows: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Return the bars of the cost curves, for each thread count.

    Args:
        rows: `kernels.run()`'s: weight type, threads, ratios by row count, shares.
    """
    curves = {(row["kind"], row["threads"]): row for row in rows}
    bars = []
    for threads in sorted({row["threads"] for row in rows}):
        named = f"{threads} thread{'s' if threads > 1 else ''}"
        float32, int8 = (curves.get((kind, threads)) for kind in ("float32", "int8"))

        def take(row: Mapping[str, Any] | None, name: str, key: int | None = None) -> float | None:
            if row is None:
                return None
            found = row.get(name) if key is None else row[name][key]
            return None if found is None else float(found)

        share = "step_fraction_of_bandwidth"
        bars += [
            Bar(f"float32 c(16)/c(1), {named}", take(float32, "ratios", 16), 2.5, is_ceiling=True),
            Bar(f"int8 c(4)/c(1), {named}", take(int8, "ratios", 4), 1.7, is_ceiling=True),
            Bar(f"float32 step, share of read bandwidth, {named}", take(float32, share), 0.60),
            Bar(f"int8 step, share of read bandwidth, {named}", take(int8, share), 0.45),
            Bar(
                f"int8 / float32 at one row, {named}", take(int8, "single_row_rate_of_float32"), 1.8
            ),
        ]
    return bars


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
