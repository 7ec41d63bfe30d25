"""Dynamic trees from a small model: the likeliest continuations, not only the likeliest one.

Shape letters: S sequences, B beam rows of one sequence, N rows, V vocabulary.
"""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from serving.engine.draft_tree import ROOT, DraftTree, TreeBuilder
from serving.engine.growing import GrowingPaths
from serving.engine.model import TokenModel
from serving.engine.model_drafter import ModelDrafter
from serving.engine.rows import Rows
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence
from serving.engine.spans import MOST_TREE_ROWS
from serving.engine.transfer import download


class _Branches(GrowingPaths):
    """The beams of one sequence so far, as rows of the draft behind the sequence's tokens."""

    def __init__(self, sequence: Sequence) -> None:
        super().__init__(sequence)
        self._tokens: list[int] = []
        self._parents: list[int] = []

    def rows(self) -> Rows:
        """Return the rows behind which the next level grows: missed tokens first, then all beams.

        Earlier beams are computed again, since only final rows stay in a cache.
        """
        cache = self.sequence.draft_cache
        if not self._tokens:
            return Rows(self.sequence.tokens[cache.length :], cache)
        return Rows(self._tokens, cache, len(self), parents=self._parents)

    def take(self, tokens: Items[int], parent_rows: Items[int]) -> None:
        """Add a beam, given the row of each node's parent in the last one."""
        first = len(self._tokens) - len(self) if self._tokens else ROOT
        self._tokens += tokens
        self._parents += [first + row for row in parent_rows]
        super().take(tokens, parent_rows)


class TreeDrafter(ModelDrafter):
    """Proposes the likeliest nodes of a beam search, all sequences side by side.

    For sampled requests the likeliest with the target's noise. The draft's cache keeps no row of a
    tree; the accepted path is fed as known tokens in the next round.
    """

    def __init__(
        self,
        model: TokenModel,
        *,
        beam_width: int,
        depth: int,
        vocabulary_size: int | None = None,
    ) -> None:
        """As `ModelDrafter`.

        Args:
            model: The drafting model.
            beam_width: Nodes that are looked behind at each depth.
            depth: Forwards of the draft in a round.
            vocabulary_size: Width of the target's logits; None is the draft's own.

        Raises:
            ValueError: If the beams are more rows than a tree may have.
        """
        super().__init__(model, vocabulary_size=vocabulary_size)
        self._num_rows = beam_width * (depth - 1)
        if self._num_rows > MOST_TREE_ROWS:
            raise ValueError(
                f"a beam of {beam_width} for {depth} levels makes {self._num_rows} rows of the "
                f"draft, above {MOST_TREE_ROWS}; narrow the beam or draft fewer tokens ahead"
            )
        self._beam_width = beam_width
        self._depth = depth

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one tree for each sequence; its nodes are as many as it may have at most."""
        trees = [DraftTree() for _ in step]
        ready = [i for i, part in enumerate(step) if self._is_ready(part, self._num_rows)]
        if ready:
            for i, tree in zip(ready, self._grow([step[i] for i in ready]), strict=True):
                trees[i] = tree
        return trees

    def _grow(self, parts: list[Scheduled]) -> list[DraftTree]:
        builder = TreeBuilder(beam_width=self._beam_width)
        branches = [_Branches(part.sequence) for part in parts]
        depths = [min(self._depth, part.num_drafts, part.most_depth) for part in parts]
        for level in range(max(depths)):
            is_growing = [depth > level for depth in depths]
            beam = builder.grow(self._log_probs(branches, is_growing, is_first=level == 0))
            beams = zip(*download(torch.stack(beam)).tolist(), strict=True)
            for branch, (tokens, parent_rows) in zip(branches, beams, strict=True):
                branch.take(tokens, parent_rows)
        return builder.trees([part.num_drafts for part in parts])

    def _log_probs(
        self, branches: list[_Branches], is_growing: list[bool], *, is_first: bool
    ) -> Tensor:
        """Run a level; what may not grow deeper gets no probability. Shape: (S, B, V)."""
        growing = [branch for branch, grows in zip(branches, is_growing, strict=True) if grows]
        batch = [branch.rows() for branch in growing]
        logits_NV = self._logits(batch)
        if is_first:
            for rows in batch:
                rows.cache.commit(len(rows.tokens))
        parts = iter(torch.split(logits_NV, [rows.num_logits for rows in batch]))
        nothing_BV = torch.full_like(
            logits_NV[: batch[0].num_logits], -torch.inf, dtype=torch.float32
        )
        return torch.stack(
            [
                branch.log_probs(next(parts)) if grows else nothing_BV
                for branch, grows in zip(branches, is_growing, strict=True)
            ]
        )
