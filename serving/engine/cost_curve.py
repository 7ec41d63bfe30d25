"""Start-up calibration: the seconds a forward takes at each row count, on the machine it runs on.

The best size of a draft follows from the target's curve and the draft's cost per step (see
`planner.speculation`); neither can be assumed, they differ by processor, kernel and thread count.
"""

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import TokenModel
from serving.engine.rows import Rows

logger = logging.getLogger(__name__)

ROW_COUNTS = (1, 2, 4, 8, 16, 32)
MOST_REPEATS = 7
_CONTEXT_TOKENS = 64
_TOKEN = 1


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Median seconds of one forward by row count, at a fixed thread count."""

    seconds_by_rows: Mapping[int, float]
    repeats: int
    """Passes over all row counts the medians are of."""
    threads: int

    def ratio(self, rows: int) -> float:
        """Return how much more `rows` rows cost than one."""
        return self.seconds_by_rows[rows] / self.seconds_by_rows[1]

    def as_json(self) -> dict[str, object]:
        """Return the curve as plain values, row counts as words."""
        return {
            "seconds_by_rows": {str(rows): s for rows, s in self.seconds_by_rows.items()},
            "repeats": self.repeats,
            "threads": self.threads,
        }


def measure_curve(
    model: TokenModel,
    *,
    name: str,
    row_counts: tuple[int, ...] = ROW_COUNTS,
    most_seconds: float = 10.0,
    clock: Callable[[], float] = time.perf_counter,
) -> CostCurve:
    """Measure a model's forward, all logits wanted, behind a short context.

    Every row count runs once in a pass, so that a busy moment touches all alike.

    Args:
        model: Target or draft, packed and padded as it will run.
        name: What the log calls it.
        row_counts: Rows to measure; counts beyond the model's context are left out.
        most_seconds: No further pass starts after this; one always completes.
        clock: Seconds, for tests.

    Returns:
        The curve; logged in one line.
    """
    past = min(_CONTEXT_TOKENS, model.context_tokens // 2)
    counts = [count for count in row_counts if past + count <= model.context_tokens]
    cache = SequenceCache(KVPool.for_tokens(past + max(counts)))
    model.forward([Rows([_TOKEN] * past, cache)])
    cache.commit(past)
    samples: dict[int, list[float]] = {count: [] for count in counts}
    start = clock()
    for count in counts:  # first touches of memory and code are no samples
        model.forward([Rows([_TOKEN] * count, cache, count)])
    repeats = 0
    while repeats == 0 or (repeats < MOST_REPEATS and clock() - start < most_seconds):
        for count in counts:
            before = clock()
            model.forward([Rows([_TOKEN] * count, cache, count)])
            samples[count].append(clock() - before)
        repeats += 1
    curve = CostCurve(
        {count: statistics.median(runs) for count, runs in samples.items()},
        repeats,
        torch.get_num_threads(),
    )
    logger.info(
        "calibrated model=%s threads=%d repeats=%d seconds_by_rows=%s seconds=%.1f",
        name,
        curve.threads,
        repeats,
        ",".join(f"{rows}:{value:.4g}" for rows, value in curve.seconds_by_rows.items()),
        clock() - start,
    )
    return curve
