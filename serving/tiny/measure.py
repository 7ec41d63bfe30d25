"""Times single steps of target and draft in the engine, as a drafting round alternates them."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from serving.engine.kv_cache import SequenceCache
from serving.engine.lean_llama import leanest
from serving.engine.model import FlatModel, Rows, TokenModel
from serving.tiny.costs import StepCosts

ROWS = (1, 2, 3, 4, 5, 7, 9)
PAST_TOKENS = 128
ROUNDS = 60
DRAFTS_A_ROUND = 4


def measure_step_costs(target_folder: Path, draft_folder: Path) -> StepCosts:
    """Return the median seconds of a draft step and of target steps at several row counts.

    Each round runs a few draft steps, then one target step for every row count, so that each finds
    the caches as in use. Float32, one thread: with models this small a second thread costs more
    than it brings.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        target = _stepper(_load(target_folder))
        draft = _stepper(leanest(_load(draft_folder)))
        draft_seconds: list[float] = []
        target_seconds: dict[int, list[float]] = {rows: [] for rows in ROWS}
        for _ in range(ROUNDS):
            draft_seconds += [_seconds(lambda: draft(1)) for _ in range(DRAFTS_A_ROUND)]
            for rows in ROWS:
                target_seconds[rows].append(_seconds(lambda rows=rows: target(rows)))  # type: ignore[misc]
    finally:
        torch.set_num_threads(threads)
    return StepCosts(
        target_seconds_by_rows={
            rows: round(statistics.median(times), 6) for rows, times in target_seconds.items()
        },
        draft_seconds=round(statistics.median(draft_seconds), 6),
        hardware=f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, "
        "one thread, float32",
    )


def _load(folder: Path) -> FlatModel:
    return FlatModel.load(str(folder), device="cpu", dtype=torch.float32)


def _stepper(model: TokenModel) -> Callable[[int], object]:
    """Return a function that runs so many new rows behind a fixed past."""
    past = min(PAST_TOKENS, model.context_tokens - max(ROWS))
    cache = SequenceCache(past + max(ROWS))
    model.forward([Rows([5] * past, cache)])
    cache.commit(past)
    return lambda rows: model.forward([Rows([7] * rows, cache, rows)])


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
