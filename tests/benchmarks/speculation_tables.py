"""The tables of the speculation benchmark, on screen and as plain values."""

from collections.abc import Mapping
from typing import Any

from benchmarks.speculation_race import Result, Subset, equal_fraction, ratio
from rich.table import Table


def rates_table(
    title: str, results: Mapping[str, Result], baseline: Result, subset: Subset, *, is_greedy: bool
) -> Table:
    """Return rates over counted and over all prompts, each over the baseline's, and what was drafted."""
    table = Table(title=title)
    table.add_column("")
    for heading in ("counted tok/s", "x", "all tok/s", "x", "tokens a round"):
        table.add_column(heading, justify="right")
    table.add_column("accepted by position")
    for heading in ("a draft ms", "same text", "peak", "own at the end"):
        table.add_column(heading, justify="right")
    for label, result in results.items():
        if result.failure is not None:
            table.add_row(label, f"not run: {result.failure}")
            continue
        row = as_json(result, baseline, subset)
        same = row["same_text_fraction"] if is_greedy else None
        table.add_row(
            label,
            _figure(row["counted_tokens_per_second"], ".1f"),
            _figure(row["counted_of_baseline"], ".2f"),
            _figure(row["all_tokens_per_second"], ".1f"),
            _figure(row["all_of_baseline"], ".2f"),
            _figure(row["tokens_per_round"], ".2f"),
            " ".join(f"{share:.2f}" for share in row["accepted_by_position"]),
            _figure(row["draft_milliseconds"], ".2f"),
            _figure(same, ".0%"),
            f"{result.peak_bytes / 2**20:,.0f} MiB",
            f"{result.own_bytes / 2**20:,.0f} MiB",
        )
    return table


def as_json(result: Result, baseline: Result, subset: Subset) -> dict[str, Any]:
    """Return a row as plain values."""
    draft_seconds = result.draft_seconds / max(result.drafts, 1)
    return {
        "failure": result.failure,
        "counted_tokens_per_second": result.rate(subset),
        "counted_of_baseline": ratio(result, baseline, subset),
        "all_tokens_per_second": result.rate(everything),
        "all_of_baseline": ratio(result, baseline, everything),
        "all_rates": result.rates(everything),
        "tokens_per_round": result.tokens_per_round,
        "accepted_by_position": result.acceptance,
        "draft_milliseconds": draft_seconds * 1e3 if draft_seconds else None,
        "same_text_fraction": equal_fraction(result, baseline),
        "peak_bytes": result.peak_bytes,
        "own_bytes": result.own_bytes,
    }


def everything(_: int) -> bool:
    """Count every prompt."""
    return True


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
