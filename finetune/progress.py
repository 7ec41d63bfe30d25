"""What a terminal shows of a running job."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from finetune.config import JobConfig
from finetune.history import RoundLine, download_bytes, seconds_left, upload_bytes
from finetune.run_plots import RunPlots


def round_text(history: Sequence[RoundLine], *, num_rounds: int) -> str:
    """Return one line on where a job stands, after at least one round."""
    last = history[-1]
    held_out = last.held_out
    num_clients = len({client for line in history for client in line.held_out.loss})
    parts = [f"round {last.round}/{num_rounds}", f"loss {last.mean_loss:.3f}"]
    if held_out.mean is not None:
        of_whom = "" if len(held_out.loss) >= num_clients else f" of {len(held_out.loss)}"
        parts.append(f"held out{of_whom}, as it began: {held_out.mean:.3f}")
    if held_out.worst is not None and held_out.worst_change:
        parts.append(f"worst {held_out.worst} {held_out.worst_change:+.3f}")
    down, up = download_bytes(history), upload_bytes(history)
    parts.append(f"{size_text(down)} down, {size_text(up)} up")
    parts.append(f"{len(last.loss)} clients")
    if last.refused:
        parts.append(f"{len(last.refused)} refused")
    left = seconds_left(history, num_rounds=num_rounds)
    if left:
        parts.append(f"{time_text(left)} left")
    return "  ".join(parts)


def size_text(num_bytes: float) -> str:
    """Return a number of bytes in decimal units, such as `4.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def time_text(seconds: float) -> str:
    """Return a time in at most two units, such as `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def job_progress() -> Progress:
    """Return the display of a job, on standard error; the text says how long it will take."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


class JobProgress:
    """Shows local steps of all clients, and the rounds so far; see `job.Observer`."""

    def __init__(self, progress: Progress, job: JobConfig, plots: RunPlots | None = None) -> None:
        """Show that the job starts.

        Args:
            progress: The display.
            job: Tells how many steps there are.
            plots: Drawn anew after a round.
        """
        self._progress = progress
        self._plots = plots
        self._num_rounds = job.num_versions
        # A scheduler decides as it goes how many steps a version takes.
        self._counts_steps = job.scheduling is None
        self._steps_per_round = job.local_steps * len(job.clients) if self._counts_steps else 1
        self._task: TaskID | None = None
        self._phase = progress.add_task("starting", total=None)
        self._rounds = ""

    def phase(self, text: str) -> None:
        """Show what goes on in place of local steps."""
        self._progress.update(self._phase, description=text, visible=True)

    def finish(self) -> None:
        """Show no phase any more."""
        self._progress.update(self._phase, visible=False)

    def step(self, round_number: int, loss: float) -> None:
        """Count a local step."""
        console = self._progress.console
        if not self._counts_steps:
            text = f"training, loss {loss:.3f}"
            self._progress.update(self._phase, description=text, visible=True)
            return
        self._progress.update(self._phase, visible=False)
        if self._task is None and not console.is_terminal:
            # A bar that nobody sees move: a line says that it does.
            console.print(f"round {round_number}/{self._num_rounds} began, loss {loss:.3f}")
        task = self._task_from(round_number - 1)
        self._progress.advance(task)
        if console.is_terminal and not self._rounds:
            text = f"round {round_number}/{self._num_rounds}  loss {loss:.3f}"
            self._progress.update(task, description=text)

    def _task_from(self, completed_rounds: int) -> TaskID:
        """Return the bar; a resumed run's begins where the earlier one stopped."""
        if self._task is None:
            self._task = self._progress.add_task(
                "training",
                total=self._num_rounds * self._steps_per_round,
                completed=completed_rounds * self._steps_per_round,
            )
        return self._task

    def round_done(self, history: Sequence[RoundLine], *, num_rounds: int) -> None:
        """Show the rounds so far; one line each where nobody sees a bar move."""
        self._rounds = round_text(history, num_rounds=num_rounds)
        if not self._progress.console.is_terminal:
            self._progress.console.print(self._rounds, soft_wrap=True)
        else:
            task, completed = self._task_from(history[-1].round), history[-1].round
            self._progress.update(
                task, completed=completed * self._steps_per_round, description=self._rounds
            )
        if self._plots is not None:
            self._plots.after_round()
