"""Progress of planning on standard error: what is being done, and how much of it is."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from planner.fleet.judging import OnProgress


@contextmanager
def planning_progress() -> Iterator[OnProgress]:
    """Yield a function that shows progress where standard error is a terminal."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("planning", total=1.0)

        def show(text: str, fraction: float) -> None:
            bar.update(task, description=text, completed=fraction)

        yield show
