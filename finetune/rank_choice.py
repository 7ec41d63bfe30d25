"""Which rank each module keeps: by energy, or by what a budget of bytes buys most of.

Shape suffix: K singular values of one module, falling.
"""

from collections.abc import Mapping

import numpy as np

from finetune.low_rank import Array, Spectrum


def rank_of_energy(values_K: Array, fraction: float) -> int:
    """Return the least rank, at least 1, that keeps this fraction of the squared norm.

    Raises:
        ValueError: If `fraction` is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"energy {fraction} is no share; give one above 0 and at most 1")
    energy_K = np.cumsum(values_K**2)
    # The sum's own rounding must not cost a rank.
    wanted = fraction * energy_K[-1] * (1 - len(values_K) * np.finfo(np.float64).eps)
    return int(np.searchsorted(energy_K, wanted)) + 1


def ranks_within_bytes(
    spectra: Mapping[str, Spectrum], *, budget_bytes: int, value_bytes: int
) -> dict[str, int]:
    """Return each module's rank, at least 1, such that all factors together fit the budget.

    Components are taken by energy a byte, largest first, over all modules. A module's own come in
    order, since each costs the same there; one that no longer fits ends its module, not the others.

    Args:
        spectra: By module.
        budget_bytes: For the values of all factors.
        value_bytes: Length of one value.

    Raises:
        ValueError: If the budget does not pay for rank 1 everywhere.
    """
    costs = {name: value_bytes * _values_a_rank(spectrum) for name, spectrum in spectra.items()}
    left_bytes = budget_bytes - sum(costs.values())
    if left_bytes < 0:
        raise ValueError(
            f"{budget_bytes} bytes for values do not pay for rank 1 everywhere, which takes "
            f"{sum(costs.values())}; allow more"
        )
    ranks = dict.fromkeys(spectra, 1)
    offers = sorted(
        (-(float(value) ** 2) / costs[name], name, rank)
        for name, spectrum in spectra.items()
        for rank, value in enumerate(spectrum.values_K[: spectrum.num_nonzero], start=1)
    )
    for _, name, rank in offers:
        if rank == ranks[name] + 1 and costs[name] <= left_bytes:
            ranks[name] = rank
            left_bytes -= costs[name]
    return ranks


def _values_a_rank(spectrum: Spectrum) -> int:
    return int(spectrum.left_MK.shape[0] + spectrum.right_KN.shape[1])
