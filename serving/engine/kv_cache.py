"""Keys and values in pages: one pool for each model and device, one page table for each sequence.

Shape letters: P pages, G key-value heads, S tokens of a page, D head size, N tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from serving.engine.pages import NULL_PAGE, PAGE_TOKENS, PagePool, chain_keys
from serving.engine.transfer import upload


class KVPool:
    """Preallocated pages of keys and values for every layer of one model."""

    def __init__(self, num_pages: int) -> None:
        """Set the size; a layer's memory is taken at its first write."""
        self.pages = PagePool(num_pages)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._unclean: list[int] = []

    @classmethod
    def for_tokens(cls, num_tokens: int) -> "KVPool":
        """Return a pool in which one sequence of that length fits."""
        return cls(pages_for(num_tokens))

    @property
    def num_layers(self) -> int:
        """Layers that have written so far."""
        return len(self._layers)

    def take(self, num_pages: int) -> list[int] | None:
        """Return pages of zeros, or None where there are not as many."""
        if num_pages > self.pages.num_available:
            return None
        taken = [self.pages.take() for _ in range(num_pages)]
        self._unclean += taken
        return taken

    @torch.inference_mode()
    def clean(self) -> None:
        """Fill newly taken pages with zeros, before a forward reads them.

        What is masked gets the weight zero, and zero times a number that is not finite, which a
        broken adapter may have left behind, is no zero.
        """
        if not self._unclean:
            return
        for layer in self._layers.values():
            for tensor in layer:
                tensor[self._unclean] = 0
        self._unclean.clear()

    def layer(self, number: int, key_TGD: Tensor, value_TGD: Tensor) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer, made like the given ones where it has none.

        Shape: (P, G, S, D) each; page 0 is the null page.
        """
        found = self._layers.get(number)
        if found is None:
            found = self._new_pages(key_TGD), self._new_pages(value_TGD)
            self._layers[number] = found
        return found

    def _new_pages(self, like_TGD: Tensor) -> Tensor:
        _, heads, size = like_TGD.shape
        tensor = like_TGD.new_empty(self.pages.num_pages + 1, heads, PAGE_TOKENS, size)
        tensor[[NULL_PAGE, *self.pages.held_pages]] = 0
        return tensor

    @torch.inference_mode()
    def move(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy tokens' keys and values between slots; all are read before any is written.

        A slot is page * 64 + place in the page.
        """
        if not sources:
            return
        places: dict[torch.device, tuple[Tensor, Tensor]] = {}
        for layer in self._layers.values():
            for tensor in layer:
                device = tensor.device
                if device not in places:
                    places[device] = upload(sources, device), upload(destinations, device)
                source, destination = places[device]
                rows = tensor[source // PAGE_TOKENS, :, source % PAGE_TOKENS]
                tensor[destination // PAGE_TOKENS, :, destination % PAGE_TOKENS] = rows

    def read(self, pages: Sequence[int], length: int) -> list[tuple[Tensor, Tensor]]:
        """Return copies of the first tokens in `pages` by layer. Shape: (G, N, D) each."""
        index = list(pages)

        def tokens(tensor: Tensor) -> Tensor:
            return tensor[index].transpose(0, 1).flatten(1, 2)[:, :length].clone()

        return [
            (tokens(keys), tokens(values)) for _, (keys, values) in sorted(self._layers.items())
        ]


class SequenceCache:
    """The pages of one sequence in a pool.

    `length` counts the tokens whose keys and values are final. Rows written behind it are
    provisional until `commit` or `commit_path`; whatever lies behind `length` is garbage by
    definition, so rolling back is a smaller `length`.
    """

    def __init__(self, pool: KVPool, salt: int = 0) -> None:
        """Start empty.

        Args:
            pool: Where the pages come from.
            salt: What keys and values depend on besides tokens: the identity of the adapter.
        """
        self.pool = pool
        self.length = 0
        self.pages: list[int] = []
        self._salt = salt
        self._keys: list[bytes] = []
        self._num_published = 0
        self._copied: tuple[list[int], list[int]] = [], []

    def reserve(self, num_rows: int) -> bool:
        """Make room for rows behind `length`; False, and nothing taken, where pages lack."""
        taken = self.pool.take(self.num_missing_pages(num_rows))
        if taken is None:
            return False
        self.pages += taken
        return True

    def num_missing_pages(self, num_rows: int) -> int:
        """Return how many pages `reserve` would take."""
        return max(0, pages_for(self.length + num_rows) - len(self.pages))

    def fork(self, length: int, num_rows: int) -> "SequenceCache | None":
        """Return a cache that begins with the first `length` tokens, or None where pages lack.

        Full pages are shared, so this one must not write before `length` while the fork lives. The
        rest's copy is left to `copy_forked`, so that it may happen beside other work.

        Args:
            length: Final tokens to keep.
            num_rows: Rows behind them to make room for.
        """
        assert length <= self.length, "a fork begins with what is final"
        num_shared = length // PAGE_TOKENS
        taken = self.pool.take(pages_for(length + num_rows) - num_shared)
        if taken is None:
            return None
        fork = SequenceCache(self.pool, self._salt)
        fork.pages = self.pages[:num_shared] + taken
        for page in fork.pages[:num_shared]:
            self.pool.pages.hold(page)
        fork.length = length
        fork._keys = self._keys[:num_shared]
        fork._num_published = min(self._num_published, num_shared)
        copied = range(num_shared * PAGE_TOKENS, length)
        fork._copied = [self.slot(i) for i in copied], [fork.slot(i) for i in copied]
        return fork

    @staticmethod
    def copy_forked(forks: Sequence["SequenceCache"]) -> None:
        """Copy what forks of one pool do not share with the caches they come from."""
        sources = [slot for fork in forks for slot in fork._copied[0]]
        destinations = [slot for fork in forks for slot in fork._copied[1]]
        for pool in {id(fork.pool): fork.pool for fork in forks}.values():
            pool.clean()
            pool.move(sources, destinations)

    @property
    def num_reserved_rows(self) -> int:
        """Rows behind `length` for which there is room."""
        return len(self.pages) * PAGE_TOKENS - self.length

    def slot(self, place: int) -> int:
        """Return the pool's slot of the token at `place`."""
        return self.pages[place // PAGE_TOKENS] * PAGE_TOKENS + place % PAGE_TOKENS

    def commit(self, num_tokens: int) -> None:
        """Make the first `num_tokens` provisional rows final."""
        assert num_tokens <= self.num_reserved_rows, "only written rows are committed"
        self.length += num_tokens

    def commit_path(self, rows: Sequence[int]) -> None:
        """Make a path of a tree final: its rows move to where a chain would have written them.

        Args:
            rows: Indices of provisional rows from the root on, ascending.
        """
        moved = [(row, place) for place, row in enumerate(rows) if row != place]
        self.pool.move(
            [self.slot(self.length + row) for row, _ in moved],
            [self.slot(self.length + place) for _, place in moved],
        )
        self.commit(len(rows))

    def roll_back(self, length: int) -> None:
        """Forget everything behind the first `length` tokens; the pages stay."""
        assert 0 <= length <= self.length, "a cache only rolls back"
        assert length >= self._num_published * PAGE_TOKENS, "what others may share stays"
        self.length = length

    def num_pages_to_admit(self, tokens: Sequence[int], num_rows: int) -> int:
        """Return how much room an empty cache takes up for `tokens` and rows behind them."""
        known = self._known_pages(tokens)
        wanted = pages_for(len(tokens) + num_rows) - len(known)
        return wanted + self.pool.pages.num_unused(known)

    def share_prefix(self, tokens: Sequence[int]) -> None:
        """Begin an empty cache with the longest known beginning of `tokens`.

        At least the last token is left to compute, since its logits are wanted.
        """
        assert not self.pages, "only an empty cache begins with shared pages"
        self.pages = self._known_pages(tokens)
        for page in self.pages:
            self.pool.pages.share(page)
        self._num_published = len(self.pages)
        self.length = self._num_published * PAGE_TOKENS
        self.pool.pages.query_tokens += len(tokens)
        self.pool.pages.hit_tokens += self.length

    def publish(self, tokens: Sequence[int]) -> None:
        """Let others share the pages that are full and final.

        Args:
            tokens: The sequence, of which the first `length` are cached; it only ever grows.
        """
        for index in range(self._num_published, self.length // PAGE_TOKENS):
            self.pool.pages.publish(self.pages[index], self._chain(tokens, index + 1)[index])
            self._num_published = index + 1

    def release(self) -> None:
        """Give all pages back."""
        self.pool.pages.give_back(self.pages)
        self.pages, self.length, self._num_published = [], 0, 0

    def snapshot(self) -> list[tuple[Tensor, Tensor]]:
        """Return copies of the final keys and values by layer. Shape: (G, length, D) each."""
        return self.pool.read(self.pages, self.length)

    def _known_pages(self, tokens: Sequence[int]) -> list[int]:
        num_full = (len(tokens) - 1) // PAGE_TOKENS
        return self.pool.pages.known_pages(self._chain(tokens, num_full)[:num_full])

    def _chain(self, tokens: Sequence[int], num_pages: int) -> list[bytes]:
        """Return the keys of at least that many pages; each is computed once."""
        if num_pages > len(self._keys):
            self._keys = chain_keys(tokens[: num_pages * PAGE_TOKENS], self._salt, self._keys)
        return self._keys


def pages_for(num_tokens: int) -> int:
    """Return how many pages hold so many tokens."""
    return -(-num_tokens // PAGE_TOKENS)
