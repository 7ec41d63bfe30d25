"""A run's curves as one picture in its folder: loss by bytes and by time, aggregation error, rank."""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.adapters import Manifest
from finetune.held_out import worst_domain
from finetune.history import RoundLine, read_history
from planner.documents import write_atomically
from planner.errors import PlotError
from planner.plots import new_figure, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

PLOTS_FILE = "plots.png"

MOST_DRAWING_FRACTION = 0.02
"""Share of a run's time that may go into drawing."""


class RunPlots:
    """The picture of one run, drawn anew as it goes on."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw nothing yet."""
        self._folder = folder
        self._clock = clock
        self._next = clock()
        self._is_possible = True

    def after_round(self) -> None:
        """Draw, unless that was done a short while ago, counted in the time it took."""
        if self._clock() >= self._next:
            self.draw()

    def draw(self, result: Manifest | None = None) -> None:
        """Draw the rounds so far; where matplotlib is not installed, say so once.

        Args:
            result: Of a run that has ended: how its adapter was judged.
        """
        history = read_history(self._folder)
        if not self._is_possible or not history:
            return
        started = self._clock()
        try:
            picture = draw_run(history, result)
        except PlotError as error:
            self._is_possible = False
            logger.info("no plots reason=%r", str(error))
            return
        write_atomically(self._folder / PLOTS_FILE, picture)
        ended = self._clock()
        self._next = ended + (ended - started) / MOST_DRAWING_FRACTION


def draw_run(history: Sequence[RoundLine], result: Manifest | None = None) -> bytes:
    """Return the picture of some rounds, at least one, as the content of a PNG file.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    figure = new_figure(width_inches=10, height_inches=7)
    by_bytes, by_time, by_error, by_rank = figure.subplots(2, 2).flat
    sizes = [0.0, *accumulate((line.download_bytes + line.upload_bytes) / 1e6 for line in history)]
    times, clock = [0.0, *accumulate(line.seconds for line in history)], "seconds in rounds"
    if history[-1].schedule is not None:
        # What scheduling buys is seen in the scheduler's time, which may be computed.
        scheduled = [line.schedule.at_seconds for line in history if line.schedule is not None]
        times, clock = [0.0, *scheduled], "seconds of the scheduler"
    _losses_by_adapter(by_bytes, sizes, history, result)
    by_bytes.set(xlabel="MB down and up, all clients", ylabel="nats a token", title="loss")
    _losses_by_adapter(by_time, times, history, result)
    by_time.set(xlabel=clock, ylabel="nats a token", title="loss")
    rounds = [line.round for line in history]
    errors = [
        float("nan") if line.aggregation_error is None else line.aggregation_error.relative
        for line in history
    ]
    by_error.plot(rounds, errors, marker=".")
    if all(line.aggregation_error is None for line in history):
        by_error.text(
            0.5,
            0.5,
            "none: no round is of whole updates",
            ha="center",
            transform=by_error.transAxes,
        )
    by_error.set(xlabel="round", ylabel="relative to the mean product", title="aggregation error")
    ranks = [float("nan") if line.rank is None else line.rank for line in history]
    by_rank.plot(rounds, ranks, marker=".", drawstyle="steps-mid")
    by_rank.set(xlabel="round", title="rank", ylim=(0, None))
    return png_of(figure)


def _losses_by_adapter(
    axes: "Axes", places: Sequence[float], history: Sequence[RoundLine], result: Manifest | None
) -> None:
    """Draw each adapter's losses; `places` has one more entry than rounds: where the first begins."""
    adapters = sorted({line.adapter for line in history})
    for adapter in adapters:
        own = [index for index, line in enumerate(history) if line.adapter == adapter]
        prefix = f"{adapter}: " if len(adapters) > 1 else ""
        _losses(
            axes,
            [places[own[0]], *(places[index + 1] for index in own)],
            [history[index] for index in own],
            result if len(adapters) == 1 else None,
            prefix=prefix,
        )
    axes.legend()


def _losses(
    axes: "Axes",
    places: Sequence[float],
    history: Sequence[RoundLine],
    result: Manifest | None,
    *,
    prefix: str,
) -> None:
    """Draw one adapter's."""
    axes.plot(
        places[1:], [line.mean_loss for line in history], label=f"{prefix}training", alpha=0.5
    )
    # A round judges the adapter that it begins with; the result's judgement closes the series.
    # A client that was not asked is believed to have the loss it last reported.
    known: dict[str, float] = {}
    judged = []
    for place, line in zip(places, history, strict=False):
        if line.held_out.loss:
            known = known | line.held_out.loss
            judged.append((place, known, line.held_out.worst))
    if result is not None and result.clients and result.rounds == history[-1].round:
        losses = {client.name: client.adapter_loss for client in result.clients}
        judged.append((places[-1], losses, worst_domain(result.clients).name))
    worst = judged[-1][2] if judged else None
    curves = {
        f"{prefix}held out, mean": [(at, sum(loss.values()) / len(loss)) for at, loss, _ in judged]
    }
    if worst is not None:  # one client's curve from the beginning on: who is the worst at the end
        curves[f"{prefix}held out, worst: {worst}"] = [
            (at, loss[worst]) for at, loss, _ in judged if worst in loss
        ]
    for label, curve in curves.items():
        if curve:
            axes.plot(*zip(*curve, strict=True), marker=".", label=label)
