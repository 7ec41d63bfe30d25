"""A client's residual after the adapter's rank fell: carried to the new factors."""

import numpy as np
from numpy.typing import NDArray

from finetune.bases import carried_over
from finetune.factors import Adapter, Scaling, common_rank, paired, unpaired
from finetune.sparsity.feedback import Residual
from finetune.sparsity.layout import Layout

Vector = NDArray[np.float32]


def carried_residual(
    residual: Residual, old: Vector, new: Vector, layout: Layout, *, basis: int
) -> Residual:
    """Return what a client did not send, as a change of the adapter it holds now.

    See `bases.carried_over` for what of it is lost. The client knows both adapters as it was sent
    them, so where downloads are sparse the bases are as near as these are.

    Args:
        residual: Of the old adapter.
        old: That adapter, as the client held it.
        new: The one it was sent whole.
        layout: Of the job's first adapter.
        basis: Number of the new adapter's basis.
    """
    before, after = (layout.of_length(len(vector)) for vector in (old, new))
    pairs = [
        _paired(before.tensors(residual.vector)),
        _paired(before.tensors(old)),
        _paired(after.tensors(new)),
    ]
    leftover, held, sent = pairs
    modules = {
        name: carried_over(factors, held.modules[name], sent.modules[name])
        for name, factors in leftover.modules.items()
    }
    vector = after.flat(unpaired(Adapter(modules, leftover.others)))
    return Residual(vector, residual.round_number, basis)


def _paired(tensors: dict[str, Vector]) -> Adapter:
    rank = common_rank(tensors)
    return paired(tensors, Scaling(rank, rank))
