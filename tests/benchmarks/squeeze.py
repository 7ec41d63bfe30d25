"""Squeezing one module from rank 64 to 8 at 2048 x 2048, against the full update's decomposition.

Bars: a hundredth of numpy's processor time for the full singular value decomposition, and the same
product to 1e-6 of its norm, in float64. Medians of five repetitions, the two in turn.
"""

import time
from statistics import median

import numpy as np

from finetune.factors import Factors
from finetune.low_rank import best_rank, decompose

SIZE, RANK, TARGET = 2048, 64, 8
REPETITIONS = 5
MOST_TIME_FRACTION = 1 / 100
MOST_DIFFERENCE = 1e-6


def run() -> dict[str, object]:
    """Time both, print a table and return the figures."""
    generator = np.random.default_rng(0)
    falling = 0.95 ** np.arange(RANK)
    factors = Factors(
        generator.normal(size=(SIZE, RANK)) * falling, generator.normal(size=(RANK, SIZE)), 0.25
    )
    update = factors.scale * factors.up_MR @ factors.down_RN
    ours_seconds, full_seconds, differences = [], [], []
    for _ in range(REPETITIONS):
        started = time.process_time()
        small = best_rank(decompose(factors), TARGET, scale=factors.scale)
        ours_seconds.append(time.process_time() - started)
        started = time.process_time()
        left, values, right = np.linalg.svd(update, full_matrices=False)
        best = (left[:, :TARGET] * values[:TARGET]) @ right[:TARGET]
        full_seconds.append(time.process_time() - started)
        product = small.scale * small.up_MR @ small.down_RN
        differences.append(float(np.linalg.norm(product - best) / np.linalg.norm(best)))
    ratio = median(ours_seconds) / median(full_seconds)
    print(f"{SIZE} x {SIZE}, rank {RANK} to {TARGET}, medians of {REPETITIONS}, processor time")
    print(f"  factors alone          {median(ours_seconds):10.4f} s")
    print(f"  numpy, full update     {median(full_seconds):10.4f} s")
    print(f"  ratio                  {ratio:10.5f}   bar {MOST_TIME_FRACTION:g}")
    print(f"  relative difference    {max(differences):10.2e}   bar {MOST_DIFFERENCE:g}")
    return {
        "ours_seconds": ours_seconds,
        "full_seconds": full_seconds,
        "ratio": ratio,
        "relative_differences": differences,
        "is_within_bars": ratio <= MOST_TIME_FRACTION and max(differences) <= MOST_DIFFERENCE,
        "numpy": np.__version__,
    }
