"""Drafting with a small model on its own device: chains of guesses, one forward a depth.

Shape letters: N rows, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from serving.engine.acceptance import draw
from serving.engine.draft_tree import DraftTree
from serving.engine.model import TokenModel
from serving.engine.rows import Rows
from serving.engine.sampling import Purpose, distribution, greedy_ids
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

MOST_CATCH_UP_ROWS = 512
"""Known tokens a sequence feeds to the draft in one step."""


class _Chain:
    """A growing draft of one sequence; greedy guesses are chosen, sampled ones drawn."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._tokens: list[int] = []
        self._probs: list[Tensor] = []

    def rows(self) -> Rows:
        """Return what the draft has not seen."""
        cache = self._sequence.draft_cache
        return Rows((self._sequence.tokens + self._tokens)[cache.length :], cache)

    def extend(self, logits_1V: Tensor) -> None:
        """Guess the next token from the draft's logits behind the last."""
        sequence, params = self._sequence, self._sequence.request.params
        histories = sequence.histories([self._tokens])
        if params.is_greedy:
            self._tokens += greedy_ids(logits_1V, params, histories)
            return
        probs_V = distribution(logits_1V, params, histories)[0].cpu()
        noise = sequence.noise(len(self._tokens), Purpose.DRAFT)
        self._tokens.append(draw(probs_V, noise))
        self._probs.append(probs_V)

    def tree(self) -> DraftTree:
        """Return what was guessed."""
        is_greedy = self._sequence.request.params.is_greedy
        return DraftTree.chain(self._tokens, None if is_greedy else self._probs)


class Drafter:
    """Proposes a chain for every decoding sequence, all sequences side by side in the batch."""

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
    def model(self) -> TokenModel:
        """The drafting model."""
        return self._model

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one draft for each scheduled sequence, empty where none was asked for.

        Each sequence's draft cache first catches up with its tokens. The drafts' own rows stay in
        it until `settle` says which of them came true. A sequence for which the draft's pool has
        no pages goes without a draft.
        """
        chains = [_Chain(part.sequence) for part in step]
        wanted = [self._num_drafts(part) for part in step]
        for level in range(max(wanted, default=0)):
            active = [chains[i] for i, count in enumerate(wanted) if count > level]
            batch = [chain.rows() for chain in active]
            logits_NV = self._fit(self._model.forward(batch))
            for rows in batch:
                rows.cache.commit(len(rows.tokens))
            for row, chain in enumerate(active):
                chain.extend(logits_NV[row : row + 1])
        return [chain.tree() for chain in chains]

    @staticmethod
    def settle(sequence: Sequence, num_true: int) -> None:
        """Keep the draft cache's rows of the first `num_true` tokens and forget rejected ones."""
        cache = sequence.draft_cache
        cache.roll_back(min(cache.length, num_true))
        cache.publish(sequence.tokens)

    def _num_drafts(self, part: Scheduled) -> int:
        """Return how many tokens to draft, having fed the draft what it is far behind.

        A long prompt then delays drafting for its own sequence, and no other sequence.
        """
        sequence, cache = part.sequence, part.sequence.draft_cache
        if part.num_drafts == 0:
            return 0
        if not cache.pages:
            cache.share_prefix(sequence.tokens)
        missed = len(sequence.tokens) - cache.length
        if not cache.reserve(missed + part.num_drafts - 1):
            self.num_without_room += 1
            return 0
        if missed <= MOST_CATCH_UP_ROWS:
            return part.num_drafts
        chunk = sequence.tokens[cache.length : cache.length + MOST_CATCH_UP_ROWS]
        self._model.forward([Rows(chunk, cache)])
        cache.commit(len(chunk))
        cache.publish(sequence.tokens)
        return 0

    def _fit(self, logits_NV: Tensor) -> Tensor:
        """Cut or fill the logits to the target's width; filled ids are never drafted."""
        width = self._vocabulary_size
        if width is None or logits_NV.shape[-1] == width:
            return logits_NV
        missing = max(width - logits_NV.shape[-1], 0)
        return functional.pad(logits_NV[:, :width], (0, missing), value=-torch.inf)
