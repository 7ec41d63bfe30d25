"""The fleet program: against the sliced binary program on small problems, and by itself on large ones.

Small: 60 request sizes, 4 GPU types, one model; both programs from numbers to proven optimum, ours with
its shares and its choice among equally cheap plans, medians of five runs (CBC stops after
`SLICED_SECONDS` at the latest, which then counts as its time, and runs once where it is slow). Large: 200 sizes, 100 offers, 5
models with caps. `row` form: the 20 input sizes are the rows, as a router that cannot see outputs
needs; `oracle` form: each of the 200 sizes is a row. Seconds hold the building of every model; the
gap is to a bound of the whole problem. `scattered` instances are harder than any catalogue (see
`fleet_generator`) and not part of what is asked.
"""

import statistics
import time
from dataclasses import asdict, dataclass

from benchmarks.fleet_generator import Shape, fleet_instance
from benchmarks.sliced import solve_sliced
from rich.console import Console
from rich.table import Table

from planner.fleet_program.answer import FleetAnswer
from planner.fleet_program.problem import FleetProblem, Rules
from planner.fleet_program.solve import solve
from planner.solvers import default_solvers

SMALL_SEEDS = range(8)
SLICES = 8
SLICED_SECONDS = 30.0
SMALL_RUNS = 5
SLOW_SECONDS = 3.0
"""A sliced program that takes longer is run once."""
SMALL_TYPES = ("L4", "A10G", "A100-80", "H100")

LARGE_SEEDS = range(2)
REPLICAS = (60, 300, 1500)
SECONDS = {False: 10.0, True: 60.0}
GAPS = {False: {60: 0.02, 300: 0.01, 1500: 0.01}, True: {60: 0.05, 300: 0.03, 1500: 0.03}}
"""By survival of one replica, then by replicas: what the issue asks."""


@dataclass(frozen=True, slots=True)
class SmallRun:
    """One small problem by both programs."""

    seed: int
    seconds: float
    cost_usd_per_hour: float
    gap_fraction: float
    sliced_seconds: float
    sliced_cost_usd_per_hour: float
    sliced_is_proven: bool


@dataclass(frozen=True, slots=True)
class LargeRun:
    """One large problem."""

    kind: str
    form: str
    replicas_aimed_at: int
    caps: str
    survives_one_replica: bool
    seed: int
    seconds: float
    gap_fraction: float
    gap_asked_fraction: float
    cost_usd_per_hour: float
    bound_usd_per_hour: float
    replicas: int


def run() -> dict[str, list[dict[str, object]]]:
    """Measure both and print their tables."""
    small = [_small(seed) for seed in SMALL_SEEDS]
    _show_small(small)
    large = [
        _large(Shape(replicas, by_output=by_output, kind=kind, caps=caps), seed, survives)
        for kind, kinds_caps in (("hardware", ("loose", "tight")), ("scattered", ("middling",)))
        for survives in (False, True)
        for by_output in (False, True)
        for replicas in REPLICAS
        for caps in kinds_caps
        for seed in (LARGE_SEEDS if kind == "hardware" else range(1))
    ]
    _show_large(large)
    return {"small": [asdict(row) for row in small], "large": [asdict(row) for row in large]}


def _solved(problem: FleetProblem, *, seconds: float, gap: float) -> FleetAnswer:
    return solve(
        problem,
        solver=default_solvers(),
        time_limit_seconds=seconds,
        gap_fraction=gap,
        clock=time.perf_counter,
    )


def _small(seed: int) -> SmallRun:
    shape = Shape(
        40, inputs=10, outputs=6, offers=4, models=1, by_output=True, types=SMALL_TYPES, caps=None
    )
    problem = fleet_instance(shape, seed=seed)
    answers = [_solved(problem, seconds=60.0, gap=1e-7) for _ in range(SMALL_RUNS)]
    answer = answers[0]
    sliced = solve_sliced(problem, slices=SLICES, time_limit_seconds=SLICED_SECONDS)
    sliced_seconds = [sliced[2]]
    while sliced[2] < SLOW_SECONDS and len(sliced_seconds) < SMALL_RUNS:
        again = solve_sliced(problem, slices=SLICES, time_limit_seconds=SLICED_SECONDS)
        sliced_seconds.append(again[2])
    return SmallRun(
        seed=seed,
        seconds=statistics.median(answer.seconds for answer in answers),
        cost_usd_per_hour=answer.cost_usd_per_hour,
        gap_fraction=answer.gap_fraction,
        sliced_seconds=statistics.median(sliced_seconds),
        sliced_cost_usd_per_hour=sliced[0],
        sliced_is_proven=sliced[1],
    )


def _large(shape: Shape, seed: int, survives: bool) -> LargeRun:
    problem = fleet_instance(shape, seed=seed, rules=Rules(survive_one_replica=survives))
    asked = GAPS[survives][shape.replicas]
    answer = _solved(problem, seconds=SECONDS[survives], gap=asked)
    return LargeRun(
        kind=shape.kind,
        form="oracle" if shape.by_output else "row",
        replicas_aimed_at=shape.replicas,
        caps=str(shape.caps),
        survives_one_replica=survives,
        seed=seed,
        seconds=answer.seconds,
        gap_fraction=answer.gap_fraction,
        gap_asked_fraction=asked,
        cost_usd_per_hour=answer.cost_usd_per_hour,
        bound_usd_per_hour=answer.bound_usd_per_hour,
        replicas=sum(answer.counts),
    )


def _show_small(rows: list[SmallRun]) -> None:
    table = Table(
        "seed", "seconds", "USD/h", "gap", "sliced s", "sliced USD/h", "proven", "times as fast",
        title="60 sizes x 4 GPU types",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            str(row.seed), f"{row.seconds:.3f}", f"{row.cost_usd_per_hour:.2f}",
            f"{row.gap_fraction:.1e}", f"{row.sliced_seconds:.2f}",
            f"{row.sliced_cost_usd_per_hour:.2f}", str(row.sliced_is_proven),
            f"{row.sliced_seconds / row.seconds:.0f}",
        )  # fmt: skip
    ratio = statistics.median(row.sliced_seconds / row.seconds for row in rows)
    least = min(row.sliced_seconds / row.seconds for row in rows)
    table.caption = f"times as fast: {ratio:.0f} in the median, {least:.0f} at least"
    Console(width=150).print(table)


def _show_large(rows: list[LargeRun]) -> None:
    table = Table(
        "kind", "form", "replicas", "caps", "survival", "seed", "seconds", "gap", "asked", "USD/h",
        "bound", "found", title="200 sizes x 100 offers x 5 models, with caps",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.kind, row.form, str(row.replicas_aimed_at), row.caps,
            "one replica" if row.survives_one_replica else "", str(row.seed), f"{row.seconds:.2f}",
            f"{row.gap_fraction:.2%}", f"{row.gap_asked_fraction:.0%}",
            f"{row.cost_usd_per_hour:.2f}", f"{row.bound_usd_per_hour:.2f}", str(row.replicas),
        )  # fmt: skip
    Console(width=150).print(table)
