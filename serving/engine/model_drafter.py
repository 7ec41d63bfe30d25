"""Drafting with a small model on its own device: what its chains and its trees share.

Shape letters: N rows, V vocabulary.
"""

from collections.abc import Sequence as Items

import torch
from torch import Tensor
from torch.nn import functional

from serving.engine.draft_tree import DraftTree
from serving.engine.model import TokenModel
from serving.engine.processors import processed
from serving.engine.rows import Rows
from serving.engine.sampling import choices
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

MOST_CATCH_UP_ROWS = 512
"""Known tokens a sequence feeds to the draft in one step."""


class ModelDrafter:
    """A drafting model with a cache of its own for every sequence."""

    def __init__(self, model: TokenModel, *, vocabulary_size: int | None = None) -> None:
        """Draft with `model`, which must share the target's tokenizer.

        Args:
            model: The drafting model.
            vocabulary_size: Width of the target's logits; embeddings of one tokenizer may be padded
                to different widths, and the draft's is cut or filled to this one. None: the same.
        """
        self._model = model
        self._vocabulary_size = vocabulary_size
        self.num_without_room = 0
        """Drafts not made because the draft's pool was full."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence the model was made for."""
        return self._model.context_tokens

    def settle(self, sequence: Sequence) -> None:
        """Keep the draft cache's rows of tokens that came true and forget rejected ones."""
        cache = sequence.draft_cache
        cache.roll_back(min(cache.length, sequence.target_cache.length))
        cache.publish(sequence.tokens)

    def _is_ready(self, part: Scheduled, num_rows: int) -> bool:
        """Whether to draft now, having made room for `num_rows` behind the known tokens.

        Feeds the draft what it is far behind: a long prompt then delays drafting for its own
        sequence, and no other sequence. A sequence for which the pool has no pages goes without.
        """
        sequence, cache = part.sequence, part.sequence.draft_cache
        if part.num_drafts == 0:
            return False
        if not cache.pages:
            cache.share_prefix(sequence.tokens)
        missed = len(sequence.tokens) - cache.length
        if not cache.reserve(missed + num_rows):
            self.num_without_room += 1
            return False
        if missed <= MOST_CATCH_UP_ROWS:
            return True
        chunk = sequence.tokens[cache.length : cache.length + MOST_CATCH_UP_ROWS]
        self._model.forward([Rows(chunk, cache)])
        cache.commit(len(chunk))
        cache.publish(sequence.tokens)
        return False

    def _logits(self, batch: Items[Rows]) -> Tensor:
        """Run the model; cut or fill to the target's width, so that filled ids are never drafted."""
        logits_NV = self._model.forward(batch)
        width = self._vocabulary_size
        if width is None or logits_NV.shape[-1] == width:
            return logits_NV
        missing = max(width - logits_NV.shape[-1], 0)
        return functional.pad(logits_NV[:, :width], (0, missing), value=-torch.inf)


class _Chain:
    """A growing draft of one sequence."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.tokens: list[int] = []

    def rows(self) -> Rows:
        """Return what the draft has not seen."""
        cache = self.sequence.draft_cache
        return Rows((self.sequence.tokens + self.tokens)[cache.length :], cache)


class ChainDrafter(ModelDrafter):
    """Proposes a chain for every sequence, one forward a depth for all of them."""

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence.

        Its rows stay in the draft's cache until `settle` says which of them came true.
        """
        chains = [_Chain(part.sequence) for part in step]
        wanted = [self._num_drafts(part) for part in step]
        for level in range(max(wanted, default=0)):
            active = [chains[i] for i, count in enumerate(wanted) if count > level]
            batch = [chain.rows() for chain in active]
            logits_NV = self._logits(batch)
            for rows in batch:
                rows.cache.commit(len(rows.tokens))
            self._extend(active, logits_NV)
        return [DraftTree.chain(chain.tokens) for chain in chains]

    def _num_drafts(self, part: Scheduled) -> int:
        count = min(part.num_drafts, part.most_depth)
        return count if self._is_ready(part, count - 1) else 0

    @staticmethod
    def _extend(chains: list[_Chain], logits_NV: Tensor) -> None:
        """Add what the draft's logits would choose in the target's place, with its noise."""
        rows = [
            processed(
                logits_NV[row : row + 1],
                chain.sequence.request.params,
                chain.sequence.histories([chain.tokens]),
            )
            for row, chain in enumerate(chains)
        ]
        likeliest = torch.cat(rows).argmax(-1).tolist()
        for chain, logits_1V, token in zip(chains, rows, likeliest, strict=True):
            params = chain.sequence.request.params
            races = chain.sequence.races([len(chain.tokens)], logits_1V.shape[-1])
            chain.tokens.append(choices(logits_1V, params, races)[0] if races else token)
