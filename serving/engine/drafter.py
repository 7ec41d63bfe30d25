"""Drafting with a small model on its own device: chains of guesses, one forward a depth.

Shape letters: K drafted tokens of one sequence, V vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from serving.engine.acceptance import draw
from serving.engine.model import Rows, TokenModel
from serving.engine.sampling import Purpose, distribution
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence


@dataclass(slots=True)
class Draft:
    """Guessed next tokens of one sequence, and the distributions they were drawn from.

    `probs_KV` stays empty for greedy requests, whose guesses are no draws.
    """

    tokens: list[int] = field(default_factory=list)
    probs_KV: list[Tensor] = field(default_factory=list)


class Drafter:
    """Proposes a chain for every decoding sequence, all sequences side by side in the batch."""

    def __init__(self, model: TokenModel) -> None:
        """Draft with `model`, which must share the target's vocabulary."""
        self._model = model

    @property
    def model(self) -> TokenModel:
        """The drafting model."""
        return self._model

    def propose(self, step: list[Scheduled]) -> list[Draft]:
        """Return one draft for each scheduled sequence, empty where none was asked for.

        Each sequence's draft cache first catches up with its tokens. The drafts' own rows stay in
        it until `settle` says which of them came true.
        """
        drafts = [Draft() for _ in step]
        depth = max((part.num_drafts for part in step), default=0)
        for level in range(depth):
            active = [i for i, part in enumerate(step) if part.num_drafts > level]
            batch = [self._rows(step[i].sequence, drafts[i]) for i in active]
            logits_NV = self._model.forward(batch)
            for rows in batch:
                rows.cache.commit(len(rows.tokens))
            self._extend([(step[i].sequence, drafts[i]) for i in active], logits_NV)
        return drafts

    @staticmethod
    def settle(sequence: Sequence, num_true: int) -> None:
        """Keep the draft cache's rows of the first `num_true` tokens and forget rejected ones."""
        cache = sequence.draft_cache
        cache.roll_back(min(cache.length, num_true))

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
