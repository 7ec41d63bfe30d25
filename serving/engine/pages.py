"""Which page of a KV pool belongs to whom: counting references, sharing known pages. No tensors.

A page holds the keys and values of 64 consecutive tokens. A full page whose contents are final may
be made known by the chain hash of everything up to its end; a later sequence that begins alike
takes the same page. A known page that nobody uses stays until its room is needed, the least
recently used first.

Source: Kwon et al. 2023, section 4, for paging; the chain of hashes is vLLM's prefix caching.
"""

import heapq
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

PAGE_TOKENS = 64
"""Tokens of a page; also the block by which attention sums, so it is no setting."""

NULL_PAGE = 0
"""Belongs to nobody and is never written."""


class PagePool:
    """Counts references to the pages 1 to `num_pages` of one pool."""

    def __init__(self, num_pages: int) -> None:
        """Start with every page free."""
        self.num_pages = num_pages
        self.query_tokens = 0
        """Prompt tokens for which shared pages were looked up, re-computed prompts included."""
        self.hit_tokens = 0
        """Tokens of these whose pages were known."""
        self._free = list(range(1, num_pages + 1))
        self._references = [0] * (num_pages + 1)
        self._page_by_key: dict[bytes, int] = {}
        self._key_by_page: dict[int, bytes] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()

    @property
    def num_tokens(self) -> int:
        """Tokens all pages hold."""
        return self.num_pages * PAGE_TOKENS

    @property
    def num_available(self) -> int:
        """Pages that `take` can still give, known ones without a user included."""
        return len(self._free) + len(self._unused)

    @property
    def num_in_use(self) -> int:
        """Pages that at least one sequence holds."""
        return self.num_pages - self.num_available

    @property
    def held_pages(self) -> list[int]:
        """The pages that at least one sequence holds."""
        return [page for page, count in enumerate(self._references) if count]

    def take(self) -> int:
        """Return a page with one reference and unknown contents; one must be available.

        The lowest free page comes first, so that the pages in use lie close together.
        """
        if self._free:
            page = heapq.heappop(self._free)
        else:
            page, _ = self._unused.popitem(last=False)
            del self._page_by_key[self._key_by_page.pop(page)]
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """Add a reference to a known page."""
        assert page in self._key_by_page, "only known pages are shared"
        self._unused.pop(page, None)
        self._references[page] += 1

    def hold(self, page: int) -> None:
        """Add a reference to a page that has one, known or not: nobody may write it from now on."""
        assert self._references[page] > 0, "only held pages are held once more"
        self._references[page] += 1

    def give_back(self, pages: Sequence[int]) -> None:
        """Drop one reference to each page; a sequence's last page becomes reusable first."""
        for page in reversed(pages):
            self._references[page] -= 1
            assert self._references[page] >= 0, "a page is given back once for each reference"
            if self._references[page]:
                continue
            if page in self._key_by_page:
                self._unused[page] = None
            else:
                heapq.heappush(self._free, page)

    def publish(self, page: int, key: bytes) -> None:
        """Make a full page known; where an equal page is known already, that one stays."""
        assert self._references[page] > 0, "a page is published by who holds it"
        if key not in self._page_by_key and page not in self._key_by_page:
            self._page_by_key[key] = page
            self._key_by_page[page] = key

    def known_pages(self, keys: Sequence[bytes]) -> list[int]:
        """Return the pages of the longest known beginning of a chain."""
        pages = []
        for key in keys:
            page = self._page_by_key.get(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def num_unused(self, pages: Sequence[int]) -> int:
        """Return how many of these known pages nobody uses, so that sharing takes up room."""
        return sum(page in self._unused for page in pages)

    def check_idle(self) -> None:
        """Check that no page is in use or lost.

        Raises:
            AssertionError: If one is; the message says which.
        """
        held = self.held_pages
        assert not held, f"pages {held[:8]} are held although nothing runs"
        free = sorted([*self._free, *self._unused])
        assert free == list(range(1, self.num_pages + 1)), "each page is free exactly once"
        assert set(self._unused) == set(self._key_by_page), "an unused page is a known one"
        assert {page: key for key, page in self._page_by_key.items()} == self._key_by_page


def chain_keys(tokens: Sequence[int], salt: int, parents: Sequence[bytes] = ()) -> list[bytes]:
    """Return the key of each full page of `tokens`, the given keys of the first pages included.

    Args:
        tokens: A sequence from its beginning.
        salt: What else the keys and values depend on: the identity of the adapter.
        parents: Keys of the first pages where they are known.
    """
    keys = list(parents)
    for start in range(len(keys) * PAGE_TOKENS, len(tokens) - PAGE_TOKENS + 1, PAGE_TOKENS):
        parent = keys[-1] if keys else salt.to_bytes(8, "little")
        content = array("q", tokens[start : start + PAGE_TOKENS]).tobytes()
        keys.append(blake2b(parent + content, digest_size=16).digest())
    return keys
