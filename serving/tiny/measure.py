"""Times steps of target and draft in the order in which decoding runs them."""

import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import leanest
from serving.engine.rows import Rows
from serving.tiny.costs import StepCosts

DRAFTED = (0, 0, 0, 0, 1, 2, 3, 4, 6, 8)
"""Drafted tokens of successive rounds; the zeros in a row are decoding without a draft."""
PAST_TOKENS = 128
"""Cached tokens behind which every step runs, fewer where the context is shorter."""
REPEATS = 40
"""Times the rounds of `DRAFTED` are gone through in one run."""
RUNS = 7
"""Runs, each with freshly loaded models."""

Step = Callable[[int], object]
"""Runs so many new rows through one model, up to the greedy choice that ends the step."""


@dataclass(frozen=True, slots=True)
class RunSeconds:
    """Median seconds of the steps of one run."""

    target_seconds_by_rows: dict[int, float]
    draft_seconds_by_draft_tokens: dict[int, float]

    @property
    def draft_fraction_by_draft_tokens(self) -> dict[int, float]:
        """Cost of one draft step in target steps at one row."""
        unit = self.target_seconds_by_rows[1]
        return {
            count: seconds / unit for count, seconds in self.draft_seconds_by_draft_tokens.items()
        }


def measure_step_costs(target_folder: Path, draft_folder: Path) -> StepCosts:
    """Return the step costs of freshly loaded models over `RUNS` runs, see `summarise`.

    Float32, one thread: with models this small a second thread costs more than it brings.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = [
            time_rounds(_stepper(_load(target_folder)), _stepper(leanest(_load(draft_folder))))
            for _ in range(RUNS)
        ]
    finally:
        torch.set_num_threads(threads)
    capability = torch.backends.cpu.get_cpu_capability()
    hardware = f"{platform.machine()} with {capability}, one thread, float32"
    return summarise(runs, hardware=hardware)


def time_rounds(
    target: Step,
    draft: Step,
    *,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.perf_counter,
) -> RunSeconds:
    """Run the rounds of `DRAFTED` so many times and return the median times of their steps.

    A round is k draft steps and then one target step at k + 1 rows. Its draft steps count with
    their mean; the median is taken over rounds of one k.

    Args:
        target: Runs the target.
        draft: Runs the draft.
        repeats: How often the rounds are gone through.
        clock: Tells the seconds.
    """
    target_seconds: dict[int, list[float]] = {count + 1: [] for count in DRAFTED}
    draft_seconds: dict[int, list[float]] = {count: [] for count in DRAFTED if count}
    for count in DRAFTED * repeats:
        start = clock()
        for _ in range(count):
            draft(1)
        drafted = clock()
        target(count + 1)
        target_seconds[count + 1].append(clock() - drafted)
        if count:
            draft_seconds[count].append((drafted - start) / count)
    return RunSeconds(_medians(target_seconds), _medians(draft_seconds))


def summarise(runs: list[RunSeconds], *, hardware: str) -> StepCosts:
    """Return the median of every time over `runs`, and the range of the draft's cost."""
    fractions = _collect(run.draft_fraction_by_draft_tokens for run in runs)
    return StepCosts(
        target_seconds_by_rows=_medians(_collect(run.target_seconds_by_rows for run in runs)),
        draft_seconds_by_draft_tokens=_medians(
            _collect(run.draft_seconds_by_draft_tokens for run in runs)
        ),
        draft_fraction_range_by_draft_tokens={
            count: (round(min(values), 4), round(max(values), 4))
            for count, values in fractions.items()
        },
        hardware=hardware,
    )


def _collect(runs: Iterable[dict[int, float]]) -> dict[int, list[float]]:
    """Return the runs' values by key."""
    collected: dict[int, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            collected.setdefault(key, []).append(value)
    return collected


def _medians(values: dict[int, list[float]]) -> dict[int, float]:
    return {key: round(statistics.median(some), 6) for key, some in values.items()}


def _load(folder: Path) -> FlatModel:
    return FlatModel.load(str(folder), device="cpu", dtype=torch.float32)


def _stepper(model: TokenModel) -> Step:
    """Return a function that runs so many new rows behind a fixed past."""
    most = max(DRAFTED) + 1
    past = min(PAST_TOKENS, model.context_tokens - most)
    cache = SequenceCache(KVPool.for_tokens(past + most))
    model.forward([Rows([5] * past, cache)])
    cache.commit(past)
    return lambda rows: model.forward([Rows([7] * rows, cache, rows)]).argmax(-1).tolist()
