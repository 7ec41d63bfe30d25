"""Held-out loss over virtual time, one line an arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.federated_time_runs import Curve

from planner.plots import new_figure, png_of


def plot(curves: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Write a picture: one panel a federation, the mean loss; the slowest client's below it."""
    num = len(next(iter(curves.values())))
    figure = new_figure(width_inches=5 * num, height_inches=8)
    panels = figure.subplots(2, num, squeeze=False, sharex=True)
    for column in range(num):
        above, below = panels[0][column], panels[1][column]
        for arm, each in curves.items():
            curve = each[column]
            above.plot(curve.seconds, curve.means, label=arm)
            below.plot(curve.seconds, [row[curve.slowest] for row in curve.losses], label=arm)
        above.set_title(f"federation {column + 1}")
        below.set_xlabel("virtual seconds")
    panels[0][0].set_ylabel("mean held-out loss, nats a token")
    panels[1][0].set_ylabel("the slowest client's")
    panels[0][0].legend()
    path.write_bytes(png_of(figure))
