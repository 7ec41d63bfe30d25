"""A draft head for tests whose law is a table, behind the drafter's `DraftHead` protocol."""

from collections.abc import Sequence

import torch

from serving.engine.head_cache import HeadCache
from serving.engine.head_rows import HeadOutput, HeadRows, mask, positions


class TableHead:
    """Logits after a token are a row of a table; features are a token and its place.

    `TableModel` gives such features as true ones. Each row is checked: its feature is of the token
    before it, and through its mask it sees every earlier row of its own path once and no other.
    """

    context_tokens = 4096

    def __init__(self, logits: torch.Tensor) -> None:
        """Take the table. Shape: (vocabulary, vocabulary)."""
        self._logits = logits
        self.first_positions: list[int] = []
        """Where each cache made so far begins."""

    def new_cache(self, capacity_rows: int, *, first_position: int = 0) -> HeadCache:
        """Return a cache whose keys hold token and place."""
        self.first_positions.append(first_position)
        return HeadCache(
            capacity_rows,
            shape=(1, 1, 2),
            device=torch.device("cpu"),
            dtype=torch.float32,
            first_position=first_position,
        )

    def prefill(self, batch: Sequence[HeadRows]) -> HeadOutput:
        """Take in verified rows."""
        for rows in batch:
            assert rows.depths is None
            rows.cache.drop_tree()
        output = self._forward(batch)
        for rows in batch:
            rows.cache.commit()
        last = torch.tensor([len(rows.tokens) for rows in batch]).cumsum(0) - 1
        return HeadOutput(output.features_TE[last], output.logits_TV[last])

    def step(self, batch: Sequence[HeadRows]) -> HeadOutput:
        """Take in tree rows."""
        assert all(rows.depths is not None for rows in batch)
        return self._forward(batch)

    def _forward(self, batch: Sequence[HeadRows]) -> HeadOutput:
        features = [self._checked(rows) for rows in batch]
        tokens = [token for rows in batch for token in rows.tokens]
        return HeadOutput(torch.cat(features), self._logits[torch.tensor(tokens)])

    def _checked(self, rows: HeadRows) -> torch.Tensor:
        """Check the rows of one sequence; return their own features."""
        first, places = rows.cache.first_position, list(positions(rows))
        own = torch.tensor([[t, p + 1.0] for t, p in zip(rows.tokens, places, strict=True)])
        seen_NL = mask(rows, torch.device("cpu"))
        keys, _ = rows.cache.write(0, own[None], own[None])
        rows.cache.count_written(len(rows.tokens))
        for n, (feature, place) in enumerate(zip(rows.features_NE, places, strict=True)):
            path = keys[0] if seen_NL is None else keys[0][seen_NL[n]]
            assert path[:, 1].tolist() == [p + 1.0 for p in range(first, place + 1)]
            assert feature[1] == place, "a row takes the feature of the token before it"
            assert len(path) == 1 or feature[0] == path[-2, 0], "of its own path"
        return own
