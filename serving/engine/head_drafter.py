"""Drafting with a Dovetail head: from the target's own features, as chains or dynamic trees.

Each round the head takes in the true features of what was accepted, then its own. Between devices go
the features of a round, in one copy, and token ids and the tree's shape back; where chains are drawn
for sampled requests, also the distributions they were drawn from, which keep the target's law.

Source: Zhang et al., "Dovetail" (2025, arXiv 2412.18934), section 3; Li et al. 2024, EAGLE-2,
section 4, for trees.

Shape letters: S sequences, B beam rows of one sequence, N rows, R tree rows so far, E the target's
hidden size, V vocabulary.
"""

from collections.abc import Sequence as Items
from typing import Protocol

import torch
from torch import Tensor

from serving.engine.draft_tree import DraftTree, TreeBuilder
from serving.engine.growing import GrowingChain, GrowingPaths
from serving.engine.head_cache import HeadCache
from serving.engine.head_rows import HeadOutput, HeadRows
from serving.engine.head_state import HeadMemory, HeadState
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

MOST_PENDING_ROWS = 512
"""Features of a sequence that wait for its next draft; more are taken in without one."""


class DraftHead(Protocol):
    """What drafting asks of a head; tests put tables of probabilities behind it."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence it was made for."""

    def new_cache(self, capacity_rows: int, *, first_position: int = 0) -> HeadCache:
        """Return an empty cache for one sequence."""

    def prefill(self, batch: Items[HeadRows]) -> HeadOutput:
        """Take in verified rows; say what stands behind each sequence's last one."""

    def step(self, batch: Items[HeadRows]) -> HeadOutput:
        """Take in tree rows; say what stands behind each of them."""


class HeadDrafter:
    """What chains and trees of a head share: its state for each sequence.

    A sequence whose cache finds no room is not drafted for in that round, which is counted, and
    begins anew from the features of the next.
    """

    reads_features = True

    def __init__(self, head: DraftHead, *, most_rows: int) -> None:
        """Draft with `head`, which must have been made for the target.

        Args:
            head: The head, on its own device.
            most_rows: Rows that the caches of all sequences may hold; a sequence takes one for each
                of its tokens and each row of its tree, and up to half as many to grow into.
        """
        self._head = head
        self.memory = HeadMemory(most_rows)
        self.num_without_room = 0
        """Drafts not made because the memory was full."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence the head was made for."""
        return self._head.context_tokens

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Keep the true features until the head takes them in; what it guessed is forgotten then."""
        assert features_NE is not None, "this drafter reads them"
        state = _state(sequence)
        if state is None:
            first = sequence.target_cache.length - len(features_NE)
            state = HeadState(self._head.new_cache(0, first_position=first), self.memory)
            sequence.draft_state = state
        state.add(features_NE)
        assert state.stop == sequence.target_cache.length, "features come without a gap"

    def _take_in(
        self, step: list[Scheduled], num_tree_rows: Items[int]
    ) -> tuple[list[int], HeadOutput | None]:
        """Feed the head all that is pending of those that draft, or of whom too much is.

        Args:
            step: Everyone's part.
            num_tree_rows: Rows each tree takes in the head's cache; below 0 for no draft.

        Returns:
            Who is ready to draft, and what the head says behind their newest tokens.
        """
        ready: list[int] = []
        late: list[HeadRows] = []
        batch: list[HeadRows] = []
        for index, (part, num_rows) in enumerate(zip(step, num_tree_rows, strict=True)):
            state = _state(part.sequence)
            if state is None or not (num_rows >= 0 or state.num_pending >= MOST_PENDING_ROWS):
                continue
            if not state.reserve(max(num_rows, 0)):
                self.num_without_room += num_rows >= 0
                state.release()
                part.sequence.draft_state = None
            elif num_rows >= 0:
                ready.append(index)
                batch.append(state.pending_rows(part.sequence.tokens))
            else:
                late.append(state.pending_rows(part.sequence.tokens))
        if late:
            self._head.prefill(late)
        return ready, self._head.prefill(batch) if batch else None


def _state(sequence: Sequence) -> HeadState | None:
    state = sequence.draft_state
    assert state is None or isinstance(state, HeadState), "an engine has one drafter"
    return state


def _cache(part: Scheduled) -> HeadCache:
    state = _state(part.sequence)
    assert state is not None, "a sequence that drafts has a state"
    return state.cache


class HeadChainDrafter(HeadDrafter):
    """Proposes a chain for every sequence, one step of the head a depth for all of them.

    As `ChainDrafter` draws or chooses its tokens.
    """

    def __init__(self, head: DraftHead, *, most_rows: int, draws: bool = True) -> None:
        """As `HeadDrafter`; `draws` draws the tokens of sampled requests, else they are chosen."""
        super().__init__(head, most_rows=most_rows)
        self._draws = draws

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence."""
        chains = [GrowingChain(part.sequence, draws=self._draws) for part in step]
        depths = [min(part.num_drafts, part.most_depth) for part in step]
        active, output = self._take_in(step, [depth - 1 for depth in depths])
        level = 0
        while output is not None:
            GrowingChain.extend([chains[i] for i in active], torch.split(output.logits_TV, 1))
            level += 1
            rows = [row for row, i in enumerate(active) if depths[i] > level]
            batch = [
                HeadRows(
                    chains[active[row]].tokens[-1:],
                    output.features_TE[row : row + 1],
                    _cache(step[active[row]]),
                    depths=(level,),
                )
                for row in rows
            ]
            active = [active[row] for row in rows]
            output = self._head.step(batch) if batch else None
        return [chain.tree() for chain in chains]


class HeadTreeDrafter(HeadDrafter):
    """Proposes the likeliest nodes of a beam search, all sequences side by side.

    Tokens are chosen, not drawn: a seeded text is the same whatever was drafted. Each depth costs a
    step of the beam's rows alone, since the head's cache keeps the rows of the round's tree.
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
        ready, output = self._take_in(step, num_rows)
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
                    _cache(parts[index]),
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
