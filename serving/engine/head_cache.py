"""Keys and values of one sequence in a draft head: verified rows that stay, tree rows that go.

Shape letters: G key-value heads, C capacity, N new rows, L rows so far, D head size.
"""

import torch
from torch import Tensor


class HeadCache:
    """Contiguous keys and values of one sequence for every layer of a head.

    The first `length` rows were made from the target's true features and stay between rounds. Tree
    rows stand behind them, made from the head's own features, and are gone after the round: what
    came true is fed again with true features, so that errors of features never add up.
    """

    def __init__(
        self,
        capacity_rows: int,
        *,
        shape: tuple[int, int, int],
        device: torch.device,
        dtype: torch.dtype,
        first_position: int = 0,
    ) -> None:
        """Reserve room.

        Args:
            capacity_rows: Verified rows and tree rows of one round together.
            shape: Layers, key-value heads, head size.
            device: Where the head runs.
            dtype: In which type.
            first_position: Position of the first row; above 0 where the features of a prompt's
                beginning are not known, as behind a shared prefix.
        """
        layers, heads, size = shape
        self.capacity_rows = capacity_rows
        self.first_position = first_position
        self.length = 0
        self.num_tree_rows = 0
        self._rows = torch.empty(layers, 2, heads, capacity_rows, size, device=device, dtype=dtype)

    def grow(self, capacity_rows: int) -> None:
        """Move what is held to a larger memory."""
        assert capacity_rows >= self.capacity_rows, "a cache only grows"
        layers, pair, heads, _, size = self._rows.shape
        rows = self._rows.new_empty(layers, pair, heads, capacity_rows, size)
        rows[:, :, :, : self.length] = self._rows[:, :, :, : self.length]
        self._rows, self.capacity_rows, self.num_tree_rows = rows, capacity_rows, 0

    def begin_as(self, other: "HeadCache") -> None:
        """Take a copy of another cache's verified rows in place of all there is."""
        rows = other._rows[:, :, :, : other.length]
        self._rows[:, :, :, : other.length] = rows
        self.length, self.num_tree_rows = other.length, 0

    def write(self, layer: int, keys_GND: Tensor, values_GND: Tensor) -> tuple[Tensor, Tensor]:
        """Put new rows behind all others; return keys and values of all rows, (G, L, D) each."""
        start = self.length + self.num_tree_rows
        stop = start + keys_GND.shape[1]
        assert stop <= self.capacity_rows, "the scheduler reserves enough room"
        keys, values = self._rows[layer]
        keys[:, start:stop] = keys_GND
        values[:, start:stop] = values_GND
        return keys[:, :stop], values[:, :stop]

    def count_written(self, num_rows: int) -> None:
        """Count rows that every layer has written, as tree rows for now."""
        self.num_tree_rows += num_rows

    def commit(self) -> None:
        """Make the rows behind the verified ones verified too."""
        self.length += self.num_tree_rows
        self.num_tree_rows = 0

    def drop_tree(self) -> None:
        """Forget the tree rows."""
        self.num_tree_rows = 0

    def roll_back(self, length: int) -> None:
        """Forget the tree rows and all verified rows but the first `length`."""
        assert 0 <= length <= self.length, "a cache only rolls back"
        self.length = length
        self.num_tree_rows = 0

    def snapshot(self) -> Tensor:
        """Return a copy of the verified keys and values. Shape: (layers, 2, G, length, D)."""
        return self._rows[:, :, :, : self.length].clone()
