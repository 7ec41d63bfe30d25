"""Keys and values of one sequence on one device: append, roll back.

Shape letters: H key-value heads, C capacity in tokens, N new tokens, D head size.
"""

from torch import Tensor


class SequenceCache:
    """Preallocated keys and values of one sequence for every layer of one model.

    `length` counts the tokens whose keys and values are final. Rows written behind it are
    provisional until `commit`; whatever lies behind `length` is garbage by definition, so rolling
    back is a smaller `length`.
    """

    def __init__(self, capacity_tokens: int) -> None:
        """Reserve room for `capacity_tokens`; buffers are made at each layer's first write."""
        self.capacity_tokens = capacity_tokens
        self.length = 0
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def write(self, layer: int, keys_HND: Tensor, values_HND: Tensor) -> tuple[Tensor, Tensor]:
        """Put new rows behind `length`; return all keys and values up to and with them.

        Args:
            layer: Index of the decoder layer.
            keys_HND: Keys with positions applied. Shape: (H, N, D).
            values_HND: Values. Shape: (H, N, D).

        Returns:
            Views of the layer's keys and values. Shape: (H, length + N, D) each.
        """
        if layer not in self._keys:
            heads, _, size = keys_HND.shape
            self._keys[layer] = keys_HND.new_empty(heads, self.capacity_tokens, size)
            self._values[layer] = values_HND.new_empty(
                heads, self.capacity_tokens, values_HND.shape[-1]
            )
        stop = self.length + keys_HND.shape[1]
        assert stop <= self.capacity_tokens, "the scheduler reserves enough room"
        self._keys[layer][:, self.length : stop] = keys_HND
        self._values[layer][:, self.length : stop] = values_HND
        return self._keys[layer][:, :stop], self._values[layer][:, :stop]

    @property
    def num_layers(self) -> int:
        """Layers that have written so far."""
        return len(self._keys)

    def commit(self, num_tokens: int) -> None:
        """Make the first `num_tokens` provisional rows final."""
        self.length += num_tokens
        assert self.length <= self.capacity_tokens, "only written rows are committed"

    def roll_back(self, length: int) -> None:
        """Forget everything behind the first `length` tokens."""
        assert 0 <= length <= self.length, "a cache only rolls back"
        self.length = length

    def snapshot(self) -> list[tuple[Tensor, Tensor]]:
        """Return copies of the final keys and values by layer. Shape: (H, length, D) each."""
        return [
            (
                self._keys[layer][:, : self.length].clone(),
                self._values[layer][:, : self.length].clone(),
            )
            for layer in sorted(self._keys)
        ]
