"""Drafting with a small model on its own device: chains of guesses, one forward a depth.

Shape letters: K drafted tokens of one sequence, V vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from serving.engine.acceptance import draw
from serving.engine.model import TokenModel
from serving.engine.rows import Rows
from serving.engine.sampling import Purpose, distribution
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

MOST_CATCH_UP_ROWS = 512
"""Known tokens a sequence feeds to the draft in one step."""


@dataclass(slots=True)
class Draft:
    """Guessed next tokens of one sequence, and the distributions they were drawn from.

    `probs_KV` stays empty for greedy requests, whose guesses are no draws.
    """

    tokens: list[int] = field(default_factory=list)
    probs_KV: list[Tensor] = field(default_factory=list)


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

    def propose(self, step: list[Scheduled]) -> list[Draft]:
        """Return one draft for each scheduled sequence, empty where none was asked for.

        Each sequence's draft cache first catches up with its tokens. The drafts' own rows stay in
        it until `settle` says which of them came true. A sequence for which the draft's pool has
        no pages goes without a draft.
        """
        drafts = [Draft() for _ in step]
        wanted = [self._num_drafts(part) for part in step]
        for level in range(max(wanted, default=0)):
            active = [i for i, count in enumerate(wanted) if count > level]
            batch = [self._rows(step[i].sequence, drafts[i]) for i in active]
            logits_NV = self._fit(self._model.forward(batch))
            for rows in batch:
                rows.cache.commit(len(rows.tokens))
            self._extend([(step[i].sequence, drafts[i]) for i in active], logits_NV)
        return drafts

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

    def _rows(self, sequence: Sequence, draft: Draft) -> Rows:
        known = sequence.tokens + draft.tokens
        return Rows(known[sequence.draft_cache.length :], sequence.draft_cache)

    def _extend(self, drafts: list[tuple[Sequence, Draft]], logits_NV: Tensor) -> None:
        greedy_ids = logits_NV.argmax(-1).tolist()
        for row, (sequence, draft) in enumerate(drafts):
            params = sequence.request.params
            if params.is_greedy:
                draft.tokens.append(greedy_ids[row])
                continue
            probs_V = distribution(logits_NV[row : row + 1], params)[0].cpu()
            noise = sequence.noise(len(draft.tokens), Purpose.DRAFT)
            draft.tokens.append(draw(probs_V, noise))
            draft.probs_KV.append(probs_V)


def stack(draft: Draft, vocabulary_size: int) -> Tensor:
    """Return a draft's distributions as one tensor. Shape: (K, V)."""
    if not draft.probs_KV:
        return torch.empty(0, vocabulary_size)
    return torch.stack(draft.probs_KV)
