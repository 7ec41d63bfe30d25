"""Aggregation that a minority of arbitrary updates cannot steer.

Every rule gives each client one vote: example counts are claims, and a claim must not buy weight.
Each needs a minimum of clients for the number of attackers it shall withstand, and refuses fewer.

Shape suffixes: K clients, N entries of the whole adapter.
"""

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CohortError

Rows = NDArray[np.float64]
Vector = NDArray[np.float64]


def coordinate_median(changes_KN: Rows, *, num_attackers: int) -> Vector:
    """Return the median of each entry.

    Raises:
        CohortError: If the attackers are half of the clients or more.

    Source: Yin et al. 2018 (arXiv 1803.01498), definition 1.
    """
    require("the coordinate median", len(changes_KN), num_attackers)
    median_N: Vector = np.median(changes_KN, axis=0)
    return median_N


def trimmed_mean(changes_KN: Rows, *, num_attackers: int) -> Vector:
    """Return the mean of each entry without its `num_attackers` largest and smallest values.

    Raises:
        CohortError: If nothing would be left.

    Source: Yin et al. 2018 (arXiv 1803.01498), definition 2, with beta = num_attackers / K.
    """
    require("the trimmed mean", len(changes_KN), num_attackers)
    kept_KN = np.sort(changes_KN, axis=0)[num_attackers : len(changes_KN) - num_attackers]
    mean_N: Vector = kept_KN.mean(axis=0)
    return mean_N


def multi_krum(
    squared_distances_KK: Rows, *, num_attackers: int, num_kept: int | None = None
) -> list[int]:
    """Return the rows with the best Krum scores, in the clients' order; ties to the first.

    A row's score is the sum of its squared distances to its K - f - 2 nearest others.

    Args:
        squared_distances_KK: Between all pairs of clients, of factors or of products.
        num_attackers: f, the clients that may be anything.
        num_kept: How many to average, m: 1 is Krum, None K - f - 2, the most.

    Raises:
        CohortError: If there are fewer than 2 f + 3 clients, or fewer than m + f + 2.

    Source: Blanchard et al. 2017 (NeurIPS, "Machine Learning with Adversaries"), Krum and its
    m-fold form; m <= K - f - 2 as Damaskinos et al. 2019
    (AggregaThor, SysML), section 2.
    """
    num_clients = len(squared_distances_KK)
    require("Krum", num_clients, num_attackers, extra=2)
    num_near = num_clients - num_attackers - 2
    num_kept = num_near if num_kept is None else num_kept
    if not 1 <= num_kept <= num_near:
        raise CohortError(
            f"Multi-Krum of {num_clients} clients and {num_attackers} attackers keeps 1 to "
            f"{num_near} updates, not {num_kept}; lower num_kept"
        )
    others_KK = squared_distances_KK.copy()
    np.fill_diagonal(others_KK, np.inf)
    scores_K = np.sort(others_KK, axis=1)[:, :num_near].sum(axis=1)
    return sorted(int(row) for row in np.argsort(scores_K, kind="stable")[:num_kept])


def squared_distances(changes_KN: Rows) -> Rows:
    """Return the squared Euclidean distances between all rows. Shape: (clients, clients).

    Row by row: the shorter form by inner products cancels where clients nearly agree.
    """
    return np.array([np.square(changes_KN - row_N).sum(axis=1) for row_N in changes_KN])


def least_clients(num_attackers: int, *, extra: int = 0) -> int:
    """Return the fewest clients among which `num_attackers` are outvoted; Krum needs 2 extra."""
    return 2 * num_attackers + 1 + extra


def require(rule: str, num_clients: int, num_attackers: int, *, extra: int = 0) -> None:
    """Check that a cohort is large enough.

    Raises:
        CohortError: If it is not.
    """
    least = least_clients(num_attackers, extra=extra)
    if num_attackers < 0 or num_clients < least:
        raise CohortError(
            f"{rule} against {num_attackers} attackers needs {least} clients, {num_clients} "
            "gave a usable update; lower num_attackers or bring more clients"
        )
