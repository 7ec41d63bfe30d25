"""A local run's curves as one picture in its folder: loss by step, predicted and measured times."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.local_runs.local_folder import LocalResult, StepLine
from finetune.run_plots import MOST_DRAWING_FRACTION
from planner.documents import write_atomically
from planner.errors import DocumentError, PlotError
from planner.plots import new_figure, png_of

logger = logging.getLogger(__name__)

PLOTS_FILE = "plots.png"


class LossPlot:
    """The picture of one run, drawn anew as it goes on."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw nothing yet."""
        self._folder, self._clock = folder, clock
        self._next = clock()
        self._is_possible = True

    def after_step(self, history: Sequence[StepLine]) -> None:
        """Draw, unless that was done a short while ago, counted in the time it took."""
        if self._clock() >= self._next:
            self.draw(history)

    def draw(self, history: Sequence[StepLine], result: LocalResult | None = None) -> None:
        """Draw the steps so far; where matplotlib is not installed, say so once.

        Args:
            history: The steps.
            result: Of a finished run.
        """
        if not self._is_possible or not history:
            return
        started = self._clock()
        try:
            picture = draw_steps(history, result)
        except PlotError as error:
            self._is_possible = False
            logger.info("no plots reason=%r", str(error))
            return
        try:
            write_atomically(self._folder / PLOTS_FILE, picture)
        except DocumentError as error:  # no reason to end a training
            logger.warning("plots not written reason=%r", str(error))
        ended = self._clock()
        self._next = ended + (ended - started) / MOST_DRAWING_FRACTION


def draw_steps(history: Sequence[StepLine], result: LocalResult | None = None) -> bytes:
    """Return the picture of some steps, at least one, as the content of a PNG file.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    figure = new_figure(width_inches=10, height_inches=4)
    by_loss, by_time = figure.subplots(1, 2)
    steps = [line.step for line in history]
    by_loss.plot(steps, [line.loss for line in history], label="training", alpha=0.7)
    if result is not None:
        judged = [result.base_loss, result.loss]
        by_loss.plot([0, result.steps], judged, marker="o", linestyle="--", label="held out")
    by_loss.set(xlabel="step", ylabel="nats a token", title="loss")
    by_loss.legend()
    by_time.plot(steps, [line.seconds for line in history], label="measured")
    by_time.plot(steps, [line.predicted_seconds for line in history], label="predicted")
    by_time.plot(steps, [line.waited_seconds for line in history], label="waiting for the plan")
    by_time.set(xlabel="step", ylabel="seconds", title="time of a step", ylim=(0, None))
    by_time.legend()
    return png_of(figure)
