"""Models for tests whose next-token law is a table, behind the engine's `TokenModel` protocol."""

from collections.abc import Sequence

import torch

from serving.engine.rows import Rows, lay_flat


class TableModel:
    """A model whose logits after a token are a row of a table: a first-order Markov chain.

    Its keys are the tokens and ones, which pools clear, copy and move like any keys: so it notices a
    cache that claims tokens nobody computed, and an engine that lacks room for what it feeds.
    """

    context_tokens = 4096
    kv_bytes_per_token = 1

    def __init__(self, logits: torch.Tensor) -> None:
        """Take the table. Shape: (vocabulary, vocabulary)."""
        self.logits = logits
        self.vocabulary_size = logits.shape[-1]

    def forward(self, batch: Sequence[Rows], ids_T: torch.Tensor | None = None) -> torch.Tensor:
        """Return the table's rows for the wanted tokens."""
        wanted = []
        ids = None if ids_T is None else iter(ids_T.tolist())
        for rows in batch:
            cache = rows.cache
            cache.pool.clean()
            keys = cache.pool.layer(0, *torch.zeros(2, 1, 1, 1))[0].view(-1)
            past = [cache.slot(place) for place in range(cache.length)]
            assert keys[past].all(), "the cache claims tokens it was never given"
            assert cache.num_reserved_rows >= len(rows.tokens), "rows need room"
            tokens = rows.tokens if ids is None else [next(ids) for _ in rows.tokens]
            new = [cache.slot(cache.length + row) for row in range(len(rows.tokens))]
            keys[new] = torch.tensor(tokens) + 1.0
            wanted.extend(tokens[-rows.num_logits :])
        return self.logits[torch.tensor(wanted)]

    def forward_with_features(self, batch: Sequence[Rows]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`; the feature of a row is its token and its place."""
        flat = lay_flat(batch)
        features = torch.tensor([flat.tokens, flat.positions]).T.float()
        return self.forward(batch), features


def random_table(vocabulary_size: int, seed: int, scale: float = 1.5) -> torch.Tensor:
    """Return seeded random logits. Shape: (vocabulary, vocabulary)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocabulary_size, vocabulary_size, generator=generator) * scale
