"""Dynamic trees from a Dovetail head: its likeliest continuations, a beam a depth.

Source: Li et al. 2024, EAGLE-2, section 4; Zhang et al., "Dovetail" (2025, arXiv 2412.18934).

Shape letters: S sequences, B beam rows of one sequence, N rows, R tree rows so far, E the target's
hidden size, V vocabulary, X anything.
"""

import torch
from torch import Tensor

from serving.engine.draft_tree import DraftTree, TreeBuilder
from serving.engine.growing import GrowingPaths
from serving.engine.head_drafter import DraftHead, HeadDrafter, cache_of
from serving.engine.head_rows import HeadOutput, HeadRows
from serving.engine.scheduler import Scheduled


class HeadTreeDrafter(HeadDrafter):
    """Proposes the likeliest nodes of a beam search, all sequences side by side.

    For sampled requests the likeliest with the target's noise. Each depth costs a step of the beam's
    rows alone, since the head's cache keeps the rows of the round's tree.
    """

    def __init__(self, head: DraftHead, *, most_rows: int, beam_width: int, depth: int) -> None:
        """As `HeadDrafter`.

        Args:
            head: The head.
            most_rows: As there.
            beam_width: Nodes that are looked behind at each depth.
            depth: Depths of a tree.
        """
        super().__init__(head, most_rows=most_rows)
        self._beam_width = beam_width
        self._depth = depth

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one tree for each sequence; its nodes are as many as it may have at most."""
        trees = [DraftTree() for _ in step]
        depths = [min(self._depth, part.num_drafts, part.most_depth) for part in step]
        num_rows = [self._beam_width * (depth - 1) for depth in depths]
        ready, output = self.take_in(step, num_rows)
        if output is not None:
            grown = self._grow([step[i] for i in ready], [depths[i] for i in ready], output)
            for i, tree in zip(ready, grown, strict=True):
                trees[i] = tree
        return trees

    def _grow(
        self, parts: list[Scheduled], depths: list[int], output: HeadOutput
    ) -> list[DraftTree]:
        builder = TreeBuilder(beam_width=self._beam_width)
        paths = [GrowingPaths(part.sequence) for part in parts]
        growing = list(range(len(parts)))
        features_SBE = output.features_TE.unsqueeze(1)
        visible_SBR = torch.zeros(
            len(parts), 1, 0, dtype=torch.bool, device=output.logits_TV.device
        )
        for level in range(1, max(depths) + 1):
            beam = builder.grow(_log_probs(paths, growing, output.logits_TV))
            if level == max(depths):
                break
            tokens = beam.tokens.tolist()
            for path, ids, rows in zip(paths, tokens, beam.parent_rows.tolist(), strict=True):
                path.take(ids, rows)
            features_SBE = _rows_of(features_SBE, beam.parent_rows)
            visible_SBR = _with_itself(_rows_of(visible_SBR, beam.parent_rows))
            growing = [index for index in growing if depths[index] > level]
            batch = [
                HeadRows(
                    tokens[index],
                    features_SBE[index],
                    cache_of(parts[index]),
                    depths=(level,) * len(tokens[index]),
                    visible_NR=visible_SBR[index],
                )
                for index in growing
            ]
            output = self._head.step(batch)
            features_SBE = torch.zeros_like(features_SBE)
            features_SBE[growing] = output.features_TE.view(len(growing), *features_SBE.shape[1:])
        return builder.trees([part.num_drafts for part in parts])


def _log_probs(paths: list[GrowingPaths], growing: list[int], logits_NV: Tensor) -> Tensor:
    """Return what stands behind every beam; nothing behind one that may not grow. (S, B, V)."""
    logits = logits_NV.chunk(len(growing))
    if len(growing) == len(paths):
        return torch.stack([path.log_probs(rows) for path, rows in zip(paths, logits, strict=True)])
    log_probs_SBV = torch.full(
        (len(paths), *logits[0].shape), -torch.inf, device=logits_NV.device, dtype=torch.float32
    )
    for index, rows in zip(growing, logits, strict=True):
        log_probs_SBV[index] = paths[index].log_probs(rows)
    return log_probs_SBV


def _rows_of(values_SBX: Tensor, rows_SB: Tensor) -> Tensor:
    """Return each sequence's own choice of its rows."""
    return values_SBX[torch.arange(len(rows_SB), device=rows_SB.device)[:, None], rows_SB]


def _with_itself(visible_SBR: Tensor) -> Tensor:
    """Add this beam's rows, each of which sees itself beside its ancestors."""
    num_sequences, num_rows, _ = visible_SBR.shape
    itself = torch.eye(num_rows, dtype=torch.bool, device=visible_SBR.device)
    return torch.cat((visible_SBR, itself.expand(num_sequences, -1, -1)), dim=-1)
