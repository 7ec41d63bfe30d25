"""Models for tests whose next-token law is a table, behind the engine's `TokenModel` protocol."""

from collections.abc import Sequence

import torch

from serving.engine.rows import Rows


class TableModel:
    """A model whose logits after a token are a row of a table: a first-order Markov chain.

    It keeps its own record of the tokens in each cache, and so notices an engine that feeds a
    wrong continuation after a roll-back.
    """

    context_tokens = 4096
    kv_bytes_per_token = 1

    def __init__(self, logits: torch.Tensor) -> None:
        """Take the table. Shape: (vocabulary, vocabulary)."""
        self._logits = logits
        self.vocabulary_size = logits.shape[-1]
        self._seen: dict[int, list[int]] = {}

    def forward(self, batch: Sequence[Rows]) -> torch.Tensor:
        """Return the table's rows for the wanted tokens."""
        wanted = []
        for rows in batch:
            seen = self._seen.setdefault(id(rows.cache), [])
            del seen[rows.cache.length :]
            assert len(seen) == rows.cache.length, "the cache claims tokens it was never given"
            seen.extend(rows.tokens)
            wanted.extend(rows.tokens[-rows.num_logits :])
        return self._logits[torch.tensor(wanted)]

    def forget(self) -> None:
        """Drop the record, before caches of new requests reuse an old one's identity."""
        self._seen.clear()


def random_table(vocabulary_size: int, seed: int, scale: float = 1.5) -> torch.Tensor:
    """Return seeded random logits. Shape: (vocabulary, vocabulary)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocabulary_size, vocabulary_size, generator=generator) * scale
