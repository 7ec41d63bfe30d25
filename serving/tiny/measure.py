"""Times steps of target and draft in the order in which decoding runs them."""

import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from serving.engine.kv_cache import SequenceCache
from serving.engine.lean_llama import leanest
from serving.engine.model import FlatModel, TokenModel
from serving.engine.rows import Rows
from serving.tiny.costs import StepCosts

DRAFTED = (0, 0, 0, 0, 1, 2, 3, 4, 6, 8)
"""Drafted tokens of successive rounds; the zeros in a row are decoding without a draft."""
PAST_TOKENS = 128
REPEATS = 40
RUNS = 7


def measure_step_costs(target_folder: Path, draft_folder: Path) -> StepCosts:
    """Return the median over `RUNS` runs, each with freshly loaded models, of step times.

    A round is k draft steps and then one target step at k + 1 rows, each with the greedy choice
    that ends it; its draft steps count with their mean, the first of them, which finds the target's
    weights in the caches, included. Float32, one thread: with models this small a second thread
    costs more than it brings.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = [_measure_once(target_folder, draft_folder) for _ in range(RUNS)]
    finally:
        torch.set_num_threads(threads)
    seconds = {rows: _median(run.target[rows] for run in runs) for rows in runs[0].target}
    fractions = sorted(run.draft / run.target[1] for run in runs)
    return StepCosts(
        target_seconds_by_rows=seconds,
        draft_seconds=_median(run.draft for run in runs),
        draft_fraction_range=(round(fractions[0], 4), round(fractions[-1], 4)),
        hardware=f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, "
        "one thread, float32",
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Median seconds of the steps of one run."""

    target: dict[int, float]
    draft: float


def _measure_once(target_folder: Path, draft_folder: Path) -> _Run:
    target = _stepper(_load(target_folder))
    draft = _stepper(leanest(_load(draft_folder)))
    draft_seconds: list[float] = []
    target_seconds: dict[int, list[float]] = {count + 1: [] for count in DRAFTED}
    for count in DRAFTED * REPEATS:
        if count:
            draft_seconds.append(_seconds(lambda: [draft(1) for _ in range(count)]) / count)  # noqa: B023
        target_seconds[count + 1].append(_seconds(lambda: target(count + 1)))  # noqa: B023
    return _Run(
        {rows: _median(times) for rows, times in target_seconds.items()}, _median(draft_seconds)
    )


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 6)


def _load(folder: Path) -> FlatModel:
    return FlatModel.load(str(folder), device="cpu", dtype=torch.float32)


def _stepper(model: TokenModel) -> Callable[[int], object]:
    """Return a function that runs so many new rows behind a fixed past."""
    most = max(DRAFTED) + 1
    past = min(PAST_TOKENS, model.context_tokens - most)
    cache = SequenceCache(past + most)
    model.forward([Rows([5] * past, cache)])
    cache.commit(past)
    return lambda rows: model.forward([Rows([7] * rows, cache, rows)]).argmax(-1).tolist()


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
