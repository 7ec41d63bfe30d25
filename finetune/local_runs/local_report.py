"""The table at the end of a local run."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from finetune.local_runs.local_folder import LocalResult


def print_local_result(result: LocalResult, console: Console, *, folder: Path) -> None:
    """Print held-out losses before and after, what was left out, and where the result is."""
    table = Table(title="held-out loss, nats a token")
    for heading in ("steps", "tokens", "before", "after", "change"):
        table.add_column(heading, justify="right")
    change = result.loss - result.base_loss
    table.add_row(
        f"{result.steps:,}",
        f"{result.held_out_tokens:,}",
        f"{result.base_loss:.4f}",
        f"{result.loss:.4f}",
        f"{change:+.4f}",
    )
    console.print(table)
    for number, what in (
        (result.num_dropped_empty, "left out: nothing to predict in them"),
        (result.num_dropped_long, "left out: longer than max_tokens"),
        (result.num_cut, "cut behind max_tokens"),
    ):
        if number:
            console.print(f"documents {what}: {number:,}")
    console.print(f"{result.result}: {folder}", soft_wrap=True)
