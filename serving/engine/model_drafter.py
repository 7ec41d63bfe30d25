"""Drafting with a small model on its own device: what its chains and its trees share.

Shape letters: N rows, V vocabulary.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as Items

import torch
from torch import Tensor
from torch.nn import functional

from serving.engine.draft_tree import DraftTree
from serving.engine.growing import GrowingChain, never
from serving.engine.kv_cache import SequenceCache
from serving.engine.lean_decoder import LeanDecoder, is_supported
from serving.engine.model import FlatModel, TokenModel
from serving.engine.rows import Rows
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

logger = logging.getLogger(__name__)

MOST_CATCH_UP_ROWS = 512
"""Known tokens a sequence feeds to the draft in one step."""


def leanest(model: FlatModel) -> TokenModel:
    """Return the cheapest way to run `model` without adapters, and say which it is."""
    is_dense = getattr(model.model.config, "quantization_config", None) is None
    if is_dense and is_supported(model.model):
        logger.info("draft path=fused")
        return LeanDecoder(model.model, is_fused=True)
    logger.info("draft path=transformers")
    return model


class ModelDrafter:
    """A drafting model with a cache of its own for every sequence."""

    reads_features = False

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
        self.is_stopped: Callable[[], bool] = never
        """Asked between two depths; a draft ends there where it is true."""
        self.names_others = False
        """Whether chains name the second likeliest tokens."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence the model was made for."""
        return self._model.context_tokens

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
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

    def _logits(self, batch: Items[Rows], ids_T: Tensor | None = None) -> Tensor:
        """Run the model; cut or fill to the target's width, so that filled ids are never drafted."""
        model = self._model
        logits_NV = model.forward(batch) if ids_T is None else model.forward(batch, ids_T)
        width = self._vocabulary_size
        if width is None or logits_NV.shape[-1] == width:
            return logits_NV
        missing = max(width - logits_NV.shape[-1], 0)
        return functional.pad(logits_NV[:, :width], (0, missing), value=-torch.inf)


class ChainDrafter(ModelDrafter):
    """Proposes a chain for every sequence, one forward a depth for all of them."""

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence.

        Its rows stay in the draft's cache until `settle` says which of them came true.
        """
        chains = [GrowingChain(part.sequence) for part in step]
        wanted = [self._num_drafts(part) for part in step]
        for level in range(max(wanted, default=0)):
            if self.is_stopped():
                break
            active = [chains[i] for i, count in enumerate(wanted) if count > level]
            batch = [_unseen(chain) for chain in active]
            logits_NV = self._logits(batch)
            for rows in batch:
                rows.cache.commit(len(rows.tokens))
            GrowingChain.extend(active, torch.split(logits_NV, 1), names_others=self.names_others)
        return [chain.tree for chain in chains]

    def imagine(self, sequence: Sequence, path: Items[int], num_drafts: int) -> Sequence | None:
        """Return the text as if `path` followed, with room to draft; None where pages lack."""
        imagined = sequence.imagined(path)
        length = min(sequence.draft_cache.length, len(imagined.tokens) - 1)
        num_rows = len(imagined.tokens) - length + num_drafts
        cache = sequence.draft_cache.fork(length, num_rows)
        if cache is None:
            return None
        imagined.draft_cache = cache
        return imagined

    def prepare(self, imagined: Items[Sequence]) -> None:
        """Copy what imagined texts need of the draft's keys and values."""
        SequenceCache.copy_forked([each.draft_cache for each in imagined])

    def go_on(self, imagined: Sequence, chain: Items[int]) -> None:
        """Take a chain drafted behind an imagined text for part of it, to draft behind that."""
        imagined.tokens += chain

    def adopt(self, sequence: Sequence, imagined: Sequence) -> None:
        """Give a text that came true the keys and values made for it and what is drafted behind."""
        sequence.draft_cache, imagined.draft_cache = imagined.draft_cache, sequence.draft_cache

    def _num_drafts(self, part: Scheduled) -> int:
        count = min(part.num_drafts, part.most_depth)
        return count if self._is_ready(part, count - 1) else 0


def _unseen(chain: GrowingChain) -> Rows:
    """Return what the draft has not seen of a sequence and its chain."""
    cache = chain.sequence.draft_cache
    return Rows((chain.sequence.tokens + chain.tokens)[cache.length :], cache)
