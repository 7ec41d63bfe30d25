"""A speculation plan as a table and its reasons, for the terminal."""

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from planner.drafting.candidate import Candidate
from planner.speculation import SpeculationPlan


def print_speculation(plan: SpeculationPlan, console: Console, *, notes: Iterable[str]) -> None:
    """Print the candidates, the choice, why, and what the figures rest on."""
    console.print(_table(plan))
    console.print(_choice(plan), markup=False, soft_wrap=True)
    for reason in plan.reasons:
        console.print(f"- {reason}", markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _choice(plan: SpeculationPlan) -> str:
    chosen, second = plan.chosen, plan.runner_up
    text = f"choice: {_named(chosen)}"
    if chosen.device is not None:
        text += f", {chosen.speed_up:.2f}x without"
    if second is not None:
        text += f"; runner-up: {_named(second)}, {second.speed_up:.2f}x"
    return text


def _named(candidate: Candidate) -> str:
    if candidate.device is None:
        return "no speculation"
    return (
        f"{candidate.rows} rows, depth {candidate.depth}, top-{candidate.top_k} "
        f"on {candidate.device}"
    )


def _table(plan: SpeculationPlan) -> Table:
    table = Table(title="ways to decode, times in ms")
    table.add_column("draft on", overflow="fold")
    for title in (
        "rows",
        "depth",
        "top-k",
        "tokens",
        "verify",
        "draft",
        "round",
        "speed-up",
    ):
        table.add_column(title, justify="right")
    table.add_column("", no_wrap=True)
    for candidate in _shown(plan):
        is_chosen, is_second = candidate is plan.chosen, candidate is plan.runner_up
        table.add_row(
            candidate.device or "none",
            str(candidate.rows),
            str(candidate.depth or "-"),
            str(candidate.top_k or "-"),
            f"{candidate.tokens_per_round:.2f}",
            _milliseconds(candidate.verify_seconds),
            _milliseconds(candidate.draft_seconds),
            _milliseconds(candidate.round_seconds),
            f"{candidate.speed_up:.2f}x",
            "chosen" if is_chosen else "runner-up" if is_second else "",
        )
    return table


def _shown(plan: SpeculationPlan) -> Iterator[Candidate]:
    """Yield the choice, the runner-up, and every number of rows that is a power of two."""
    for candidate in plan.candidates:
        is_named = candidate is plan.chosen or candidate is plan.runner_up
        if is_named or candidate.rows.bit_count() == 1:
            yield candidate


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"
