"""Rows of many sequences as a draft head takes them in, and what it says behind them.

Shape letters: N new rows of one sequence, R tree rows of it so far, L rows in its cache, T rows
asked about, E the target's hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from serving.engine.head_cache import HeadCache


@dataclass(frozen=True, slots=True)
class HeadRows:
    """New rows of one sequence: row i is a token and the feature of the token before it.

    For verified rows `depths` and `visible_NR` stay None: each stands behind the one before it. For
    tree rows `depths` gives each row's distance from the verified rows, 1 for children of the root,
    and `visible_NR` says which of the tree's rows so far, the new ones last, each row attends to;
    None is all of them, right for a chain fed one row at a time.
    """

    tokens: Sequence[int]
    features_NE: Tensor
    cache: HeadCache
    depths: Sequence[int] | None = None
    visible_NR: Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What the head says behind each row asked about.

    `features_TE` are its predicted features, to go with every child's token in the next step;
    `logits_TV` the logits of the token behind the row's own, as the target's head has them.
    """

    features_TE: Tensor
    logits_TV: Tensor


def positions(rows: HeadRows) -> Sequence[int]:
    """Return where the rows stand in their sequence. Length: N."""
    start = rows.cache.first_position + rows.cache.length
    if rows.depths is None:
        return range(start, start + len(rows.tokens))
    return [start + depth - 1 for depth in rows.depths]


def mask(rows: HeadRows, device: torch.device) -> Tensor | None:
    """Return which of the cache's rows, the new ones last, each row sees; None: all. (N, L)."""
    num_rows, past = len(rows.tokens), rows.cache.length
    if rows.depths is None:
        if num_rows == 1:
            return None
        visible = torch.ones(num_rows, past + num_rows, dtype=torch.bool, device=device)
        return visible.tril(past)
    if rows.visible_NR is None:
        return None
    return functional.pad(rows.visible_NR.to(device), (past, 0), value=True)
