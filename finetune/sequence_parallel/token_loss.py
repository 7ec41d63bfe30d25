"""The loss of a rank's tokens, without a copy of all their scores in float32.

Shape letters: N tokens with a label, V vocabulary entries.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from finetune.sequence_parallel.attention import SharedRow
from finetune.sequence_parallel.packed_rows import NO_LABEL, RowShare

_CHUNK_NUMBERS = 1 << 26
"""Scores taken to float32 at a time: 256 MiB."""


def summed_loss(
    model: nn.Module, share: RowShare, row: SharedRow, *, device: torch.device
) -> Tensor:
    """Return the loss summed over the share's labels, nats; 0 with a gradient where it has none.

    Only tokens with a label get scores.
    """
    labels = torch.from_numpy(share.labels).to(device)
    labelled = torch.nonzero(labels != NO_LABEL).flatten()
    output: Any = model(
        input_ids=torch.from_numpy(share.token_ids).to(device)[None],
        position_ids=torch.from_numpy(share.positions).to(device)[None],
        use_cache=False,
        logits_to_keep=labelled,
        shared_row=row,
    )
    logits_NV = output.logits[0]
    if len(logits_NV) != len(labelled):  # a model that knows nothing of logits_to_keep
        logits_NV = logits_NV[labelled]
    return summed_cross_entropy(logits_NV, labels[labelled])


def summed_cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Return the summed loss, computed by chunks and again by chunks in the backward pass."""
    if not len(labels_N):
        return logits_NV.sum()
    rows = max(1, _CHUNK_NUMBERS // logits_NV.shape[1])
    chunks = zip(torch.split(logits_NV, rows), torch.split(labels_N, rows), strict=True)
    losses = [
        checkpoint(_cross_entropy, scores, labels, use_reentrant=False, preserve_rng_state=False)
        for scores, labels in chunks
    ]
    return torch.stack(losses).sum()


def _cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    return functional.cross_entropy(logits_NV.float(), labels_N, reduction="sum")
