"""Updates of older versions: kept as what they changed, and a version made of such changes.

Where the aggregation keeps its basis these are changes of the factors. Where the basis is gone by the
time an update counts, it is counted by what it changed of the product, s (B' A' - B A). That difference
is a pair of factors of twice the rank, which means the same whatever happened to the basis since, and
stacks with any others before one cut to the rank wanted.

Source: our derivation; stacking as in FLoRA (Wang et al. 2024, arXiv 2409.05976).
"""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.aggregation import STRATEGIES, Aggregation, AggregationError, added_up
from finetune.factors import Adapter, Scaling, common_rank, paired, unpaired
from finetune.low_rank import stacked
from finetune.strategies.changes import apply_changes, change
from finetune.updates import Tensors

logger = logging.getLogger(__name__)


def stale_change(
    trained: Tensors, start: Tensors, aggregation: Aggregation
) -> dict[str, NDArray[np.float32]]:
    """Return what an update changed, in the form in which `next_version` counts it.

    Of products that is a pair of factors of scale 1 and twice the rank of `start`, so twice its bytes;
    as for any adapter, the scales are not in the tensors.

    Args:
        trained: What a client sent, in the form of `start`; of a sparse job `start` with the entries
            that it sent, which count as changes of these factors as in a synchronous round.
        start: The version it began from.
        aggregation: The job's.
    """
    if aggregation.strategy.keeps_basis:
        return change(trained, start)
    scaling = _scaling(start, aggregation.scale)
    return unpaired(product_change(paired(trained, scaling), paired(start, scaling)))


def next_version(
    current: Tensors,
    changes: Sequence[Tensors],
    weights: Sequence[float],
    aggregation: Aggregation,
    *,
    version: int,
) -> tuple[dict[str, NDArray[np.float32]], AggregationError | None]:
    """Return an adapter's next version, and how far from exact it is where products were cut.

    Args:
        current: The newest version.
        changes: Of `stale_change`, each from a version of its own, of that version's rank.
        weights: One each; staleness makes them smaller.
        aggregation: The job's.
        version: Number of the version that is made; the next round may have a lower rank.

    Raises:
        ValueError: If there are not as many weights as changes.
    """
    if aggregation.strategy.keeps_basis:
        return apply_changes(current, changes, weights), None
    tensors, error = apply_product_changes(
        paired(current, _scaling(current, aggregation.scale)),
        [paired(one, _scaling(one, 1.0)) for one in changes],
        weights,
        most_rank=aggregation.next_rank(version),
        is_turned_back=aggregation.is_turned_back,
    )
    logger.info(
        "changes of products stacked version=%d updates=%d aggregation_error=%.6g relative=%.6g",
        version,
        len(changes),
        error.absolute,
        error.relative,
    )
    return tensors, error


def product_change(trained: Adapter, start: Adapter) -> Adapter:
    """Return what training changed of each product, as factors of scale 1 and both ranks' sum.

    What is no factor, such as a head, is the plain difference.

    Args:
        trained: What a client sent.
        start: The version it began from, of any rank and scale.

    Raises:
        KeyError: If one holds a module or tensor that the other lacks.
    """
    modules = {
        name: stacked([factors, start.modules[name]], [1.0, -1.0])
        for name, factors in trained.modules.items()
    }
    return Adapter(modules, change(trained.others, start.others))


def apply_product_changes(
    current: Adapter,
    changes: Sequence[Adapter],
    weights: Sequence[float],
    *,
    most_rank: int | None = None,
    is_turned_back: bool = False,
) -> tuple[dict[str, NDArray[np.float32]], AggregationError]:
    """Return the current adapter plus weighted changes of its products, and what the cut lost.

    Each product is the nearest to the exact sum of the current rank and scale. FLoRA comes to the same:
    the target never has room for the stack, since the current adapter fills it.

    Args:
        current: The newest version.
        changes: Of `product_change`, of any ranks.
        weights: One each.
        most_rank: Modules of a higher rank are cut to this one.
        is_turned_back: Turn each module towards the current one, where the rank stays.

    Raises:
        ValueError: If there are not as many weights as changes.
    """
    if len(changes) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(changes)} changes; give one for each")
    return added_up(
        [current, *changes],
        np.array([1.0, *weights]),
        STRATEGIES["best-rank"],
        like=current,
        most_rank=most_rank,
        is_turned_back=is_turned_back,
    )


def _scaling(tensors: Tensors, scale: float) -> Scaling:
    """Return the scaling of tensors of one rank whose products all have this scale."""
    rank = common_rank(tensors)
    return Scaling(rank, scale * rank)
