"""Chains of a draft model on a device of its own: only token ids leave it, once a round.

Shape letters: S sequences that still draft, V vocabulary.
"""

import torch
from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.growing import second_likeliest
from serving.engine.model_drafter import ChainDrafter
from serving.engine.processors import processed
from serving.engine.rows import Rows
from serving.engine.sampling import raced
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence
from serving.engine.transfer import download, upload


class ApartChainDrafter(ChainDrafter):
    """A chain drafter whose guesses feed the next depth without a stop at the processor.

    A sampled request's races are copied to the device, no distribution back.
    """

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence; its rows stay in the draft's cache until `settle`."""
        if any(part.sequence.history is not None for part in step):
            # Processors that read the text need each guess as it is made.
            return super().propose(step)
        wanted = [self._num_drafts(part) for part in step]
        drafting: list[int] = []
        ids_S: Tensor | None = None
        levels: list[tuple[list[int], Tensor]] = []
        self._others: list[Tensor] = []
        for level in range(max(wanted, default=0)):
            if self.is_stopped():
                break
            before = drafting
            drafting = [i for i, count in enumerate(wanted) if count > level]
            if ids_S is not None and len(drafting) < len(before):
                ids_S = ids_S[upload([before.index(i) for i in drafting], ids_S.device)]
            ids_S = self._next([step[i].sequence for i in drafting], ids_S, level)
            levels.append((drafting, ids_S))
        return _chains(len(step), levels, self._others)

    def _next(self, sequences: list[Sequence], ids_S: Tensor | None, level: int) -> Tensor:
        """Feed each sequence what it lacks, or its newest guess; return the next. Shape: (S,)."""
        batch = []
        for sequence in sequences:
            cache = sequence.draft_cache
            unseen = sequence.tokens[cache.length :] if ids_S is None else [0]
            batch.append(Rows(unseen, cache))
        logits_SV = self._logits(batch, ids_S)
        for rows in batch:
            rows.cache.commit(len(rows.tokens))
        scores = []
        for row, sequence in enumerate(sequences):
            params = sequence.request.params
            races = sequence.races([level], logits_SV.shape[-1])
            scores.append(raced(processed(logits_SV[row : row + 1], params), params, races))
        if self.names_others:
            self._others += [second_likeliest(score) for score in scores]
        return torch.cat([score.argmax(-1) for score in scores])


def _chains(
    count: int, levels: list[tuple[list[int], Tensor]], others: list[Tensor]
) -> list[DraftTree]:
    """Fetch all levels' guesses in one copy; each level names the sequences it guessed for."""
    tokens: list[list[int]] = [[] for _ in range(count)]
    seconds: list[list[int]] = [[] for _ in range(count)]
    if levels:
        owners = [i for drafting, _ in levels for i in drafting]
        guesses = download(torch.cat([ids_S for _, ids_S in levels] + others)).tolist()
        for place, owner in enumerate(owners):
            tokens[owner].append(guesses[place])
            seconds[owner] += guesses[len(owners) + place :][:1]
    return [DraftTree.chain(*each) for each in zip(tokens, seconds, strict=True)]
