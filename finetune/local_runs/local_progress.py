"""What a terminal shows of a local run; rank 0 shows it."""

import time
from collections.abc import Callable, Sequence

from rich.progress import Progress, TaskID

from finetune.local_runs.local_folder import StepLine
from finetune.local_runs.loss_plot import LossPlot

_LINE_SECONDS = 10.0
"""Where no bar is seen to move, a line at least so many seconds after the last one."""


class LocalProgress:
    """Shows the steps so far, with their rate and the time that is left."""

    def __init__(
        self,
        progress: Progress,
        plot: LossPlot | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show that the run starts.

        Args:
            progress: The display, of `planner.console.progress_bar`.
            plot: Drawn anew now and then.
            clock: Seconds.
        """
        self._progress, self._plot, self._clock = progress, plot, clock
        self._phase = progress.add_task("starting", total=None)
        self._steps: TaskID | None = None
        self._next_line = clock()

    def phase(self, text: str) -> None:
        """Show what goes on in place of steps."""
        self._progress.update(self._phase, description=text, visible=text != "training")

    def steps_done(self, history: Sequence[StepLine], *, num_steps: int) -> None:
        """Count a step; say where nobody sees a bar move."""
        last = history[-1]
        text = f"step {last.step}/{num_steps}  loss {last.loss:.4f}"
        if self._steps is None:
            # A resumed run's bar begins where the earlier one stopped.
            self._steps = self._progress.add_task(text, total=num_steps)
        self._progress.update(self._steps, completed=last.step, description=text)
        console, now = self._progress.console, self._clock()
        if not console.is_terminal and (now >= self._next_line or last.step == num_steps):
            console.print(f"{text}  {last.tokens / last.seconds:,.0f} tokens/s", soft_wrap=True)
            self._next_line = now + _LINE_SECONDS
        if self._plot is not None:
            self._plot.after_step(history)

    def finish(self) -> None:
        """Show no phase any more."""
        self._progress.update(self._phase, visible=False)


class Unwatched:
    """Shows nothing: a rank beside rank 0."""

    def phase(self, text: str) -> None:
        """Say nothing."""

    def steps_done(self, history: Sequence[StepLine], *, num_steps: int) -> None:
        """Say nothing."""
