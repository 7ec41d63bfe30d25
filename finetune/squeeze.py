"""An adapter at lower ranks: each module's best approximation, from its factors alone.

Source: LoRA-Squeeze (arXiv 2602.10993), here with exact QR and a small SVD in place of a randomised
one: it is as fast at LoRA's ranks.
"""

from collections.abc import Callable

from finetune.factors import Adapter
from finetune.low_rank import best_rank, decompose
from finetune.rank_choice import Choice


def squeeze(
    adapter: Adapter, choose: Choice, *, watch: Callable[[], None] = lambda: None
) -> Adapter:
    """Return the best approximation of every module at the ranks chosen.

    No module's rank grows. Scales stay, so alpha is to be proportional to the rank.

    Args:
        adapter: Is not changed.
        choose: Asked once.
        watch: Told after each module's decomposition, which is what takes time.

    Raises:
        ValueError: If no ranks can be chosen.
    """
    spectra = {}
    for name, factors in adapter.modules.items():
        spectra[name] = decompose(factors)
        watch()
    ranks = choose(spectra)
    modules = {
        name: best_rank(spectra[name], min(ranks[name], factors.rank), scale=factors.scale)
        for name, factors in adapter.modules.items()
    }
    return Adapter(modules, adapter.others)


def flattened(adapter: Adapter) -> Adapter:
    """Return the same products at one rank, the largest, with zeros, and one scale, taken up by B.

    For engines that pass over `rank_pattern` and `alpha_pattern`.
    """
    rank = max(factors.rank for factors in adapter.modules.values())
    scales = [factors.scale for factors in adapter.modules.values()]
    scale = max(set(scales), key=lambda value: (scales.count(value), value))
    modules = {name: f.padded(rank, scale=scale) for name, f in adapter.modules.items()}
    return Adapter(modules, adapter.others)
