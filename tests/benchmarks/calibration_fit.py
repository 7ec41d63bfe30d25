"""Fitting the step model's coefficients to cells: non-negative least squares on relative errors.

A time at the peaks is known; what an engine adds to it cannot be negative. With shares written as
`1 / (1 + extra)`, each time is

    peak time + sum over terms of extra * (the term's time at its peak) + overheads

and linear in the extras and overheads, once it is known whether reading weights or computing lasts
longer. So the fit alternates: choose the longer one in each cell, solve, repeat until nothing moves.
Rows are divided by the measured time, columns by their length; a ridge pulls the extras towards a
prior, and overheads towards 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from benchmarks.calibration_cells import Cell, design_of
from scipy.optimize import nnls

from planner.hardware.coefficients import Coefficients
from planner.speed.step_model import RooflineStepTimes
from planner.speed.tensor_parallel import ALL_REDUCES_PER_LAYER

GROWTHS: dict[str, Callable[[int], float]] = {
    "constant": lambda _: 1.0,
    "tree": math.log2,
    "ring": lambda devices: devices - 1.0,
}
"""How the fixed cost of an all-reduce may grow with the devices."""

PRIORS = {
    "published": np.array([1 / 0.8, 1 / 0.6, 1 / 0.8, 1 / 0.45, 1.0, 1.0]) - 1,
    "peaks": np.zeros(6),
}
"""Extras of weights, compute, cache and links, then seconds a layer and an all-reduce. Published:
the shares of the set `vllm`; the 0.6 of compute is our expectation."""

ITERATIONS = 30
TIE_BREAK = 1e-3
NUM_TERMS = 6


@dataclass(frozen=True, slots=True)
class Form:
    """A candidate: how terms combine, and how the fit is held back."""

    combine: Literal["max", "sum"]
    """Whether reading weights overlaps computing."""
    growth: str
    prior: str
    ridge: float
    ridge_on_overheads: bool
    """Nothing but a tie-break holds overheads back otherwise."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured time with the peak times of its terms."""

    kind: Literal["prompt", "token"]
    seconds: float
    weight: float
    compute: float
    kv: float
    link: float
    layers: float
    devices: int


def rows_of(cell: Cell, peaks: Coefficients) -> list[Row]:
    """Return the cell's two times."""
    times = RooflineStepTimes(design_of(cell), peaks)
    rows = []
    for kind, seconds, batch in (
        ("prompt", cell.prompt_seconds, cell.prompt_batch),
        ("token", cell.token_seconds, cell.token_batch),
    ):
        work = times.stage_work(batch)
        terms = (work.weight_seconds, work.compute_seconds, work.kv_seconds, work.link_seconds)
        rows.append(Row(kind, seconds, *terms, work.layers, cell.tensor_parallel))
    return rows


def fit(rows: list[Row], form: Form) -> np.ndarray:
    """Return the extras and overheads, shape (6,), in the order of `PRIORS`."""
    prior = PRIORS[form.prior]
    overhead_ridge = form.ridge if form.ridge_on_overheads else TIE_BREAK
    ridges = np.sqrt([form.ridge] * 4 + [overhead_ridge] * 2)
    extras = prior.copy()
    for _ in range(ITERATIONS):
        columns = np.array([_columns(row, form, extras) / row.seconds for row in rows])
        peaks = np.array([_columns(row, form, extras)[:4].sum() / row.seconds for row in rows])
        lengths = np.linalg.norm(columns, axis=0)
        lengths[lengths == 0] = 1
        matrix = np.vstack([columns / lengths, np.diag(ridges)])
        solution, _ = nnls(matrix, np.concatenate([1 - peaks, ridges * prior * lengths]))
        settled = np.allclose(solution / lengths, extras, rtol=1e-9, atol=1e-12)
        extras = solution / lengths
        if settled:
            break
    return extras


def relative_errors(rows: list[Row], form: Form, extras: np.ndarray) -> dict[str, list[float]]:
    """Return the absolute relative errors of prompts and tokens."""
    errors: dict[str, list[float]] = {"prompt": [], "token": []}
    for row in rows:
        columns = _columns(row, form, extras)
        predicted = columns[:4].sum() + columns @ extras
        errors[row.kind].append(abs(predicted / row.seconds - 1))
    return errors


def _columns(row: Row, form: Form, extras: np.ndarray) -> np.ndarray:
    weight, compute = row.weight, row.compute
    if form.combine == "max":
        if weight * (1 + extras[0]) >= compute * (1 + extras[1]):
            compute = 0.0
        else:
            weight = 0.0
    hops = ALL_REDUCES_PER_LAYER * row.layers * GROWTHS[form.growth](row.devices)
    return np.array([weight, compute, row.kv, row.link, row.layers, hops])
