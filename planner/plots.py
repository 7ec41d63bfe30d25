"""Figures without a screen; matplotlib is an optional extra and is imported only here, on use."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

from planner.errors import PlotError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plots() -> None:
    """Check, before the work, that figures can be drawn after it.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        message = "plots need the package 'matplotlib'; install it with: pip install 'motley[plot]'"
        raise PlotError(message)


def new_figure(*, width_inches: float, height_inches: float) -> Figure:
    """Return an empty figure that belongs to no window and no global state.

    Raises:
        PlotError: If matplotlib is not installed.
    """
    check_plots()
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def png_of(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
