"""Which rank each module keeps: a fixed one, by energy, or by what a budget of bytes buys most of.

Shape suffix: K singular values of one module, falling.
"""

from collections.abc import Callable, Mapping

import numpy as np

from finetune.low_rank import Array, Spectrum

Choice = Callable[[Mapping[str, Spectrum]], Mapping[str, int]]
"""Chooses the rank of every module by the spectra of all; a ValueError says that it cannot."""


def fixed_rank(rank: int) -> Choice:
    """Return the choice of one rank for all modules."""
    return lambda spectra: dict.fromkeys(spectra, rank)


def by_energy(fraction: float, *, is_uniform: bool = False) -> Choice:
    """Return the choice of each module's least rank that keeps this share of its squared norm.

    Args:
        fraction: Above 0 and at most 1.
        is_uniform: All modules get one rank, the largest that any of them needs.
    """

    def choose(spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        ranks = {name: rank_of_energy(s.values_K, fraction) for name, s in spectra.items()}
        return dict.fromkeys(ranks, max(ranks.values())) if is_uniform else ranks

    return choose


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


def within_bytes(
    most_bytes: int, *, value_bytes: int, other_bytes: int = 0, is_uniform: bool = False
) -> Choice:
    """Return the choice of ranks, each at least 1, whose factors fit a budget.

    Components are taken by energy a byte, largest first, over all modules. A module's own come in
    order, since each costs the same there; one that no longer fits ends its module, not the others.

    Args:
        most_bytes: The budget.
        value_bytes: Length of one value.
        other_bytes: What the budget pays besides the factors.
        is_uniform: All modules get one rank, the largest that fits.

    Raises:
        ValueError: When chosen, if the budget does not pay for rank 1 everywhere.
    """

    def choose(spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        costs = {name: value_bytes * _values_a_rank(s) for name, s in spectra.items()}
        least_bytes = sum(costs.values())
        left_bytes = most_bytes - other_bytes - least_bytes
        if left_bytes < 0:
            raise ValueError(
                f"{most_bytes} bytes do not pay for rank 1 in all {len(spectra)} modules, which "
                f"takes {least_bytes + other_bytes}; allow more"
            )
        if is_uniform:
            return dict.fromkeys(spectra, 1 + left_bytes // least_bytes)
        return _bought(spectra, costs, left_bytes)

    return choose


def _bought(
    spectra: Mapping[str, Spectrum], costs: Mapping[str, int], left_bytes: int
) -> dict[str, int]:
    """Return the ranks after buying from rank 1 on; equal offers are taken by name."""
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
