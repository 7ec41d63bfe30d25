"""A text cut into blocks, each named by a hash of everything up to its end.

Two texts have equal hashes up to the last block border before their first difference, so the longest
common prefix of many texts is a matter of looking hashes up. Blocks are short where texts begin and
longer further in, which bounds the work: 64 characters each in the first 4,096, then 256, 1,024,
4,096 and 16,384, about 300 blocks for 1 MiB. Borders depend on the place only. What is left behind the
last border is no block: a short prompt has none.

The hash is Python's own of strings: salted, so that nobody can make texts collide, and therefore the
same inside one process only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MOST_CHARACTERS = 2**20
"""How much of a text is looked at."""
_BLOCK_CHARACTERS = (64, 256, 1024, 4096, 16384)
_BLOCKS_OF_A_SIZE = 64


@dataclass(frozen=True, slots=True)
class Blocks:
    """A text as prefixes."""

    hashes: tuple[int, ...]
    """Of the text up to each border, shortest first."""
    num_characters: int
    """Of the whole text."""

    def seeded(self, model: str) -> "Blocks":
        """Return the blocks as those of `model`, whose caches hold other values for the same text."""
        seed = hash(model)
        return Blocks(tuple([each ^ seed for each in self.hashes]), self.num_characters)

    def fraction(self, num_blocks: int) -> float:
        """Return what share of the text the first `num_blocks` blocks are, 0 to 1."""
        return BLOCK_ENDS[num_blocks - 1] / self.num_characters if num_blocks else 0.0


NO_BLOCKS = Blocks((), 0)


def blocks_of(text: str) -> Blocks:
    """Return the whole blocks of `text`, of which `MOST_CHARACTERS` are looked at."""
    num_characters = len(text)
    hashes = []
    chain = start = 0
    for end in BLOCK_ENDS:
        if end > num_characters:
            break
        chain = hash((chain, text[start:end]))
        hashes.append(chain)
        start = end
    return Blocks(tuple(hashes), num_characters)


def _ends() -> Iterator[int]:
    end = 0
    for size in _BLOCK_CHARACTERS[:-1]:
        for _ in range(_BLOCKS_OF_A_SIZE):
            end += size
            yield end
    yield from range(end + _BLOCK_CHARACTERS[-1], MOST_CHARACTERS + 1, _BLOCK_CHARACTERS[-1])


BLOCK_ENDS = tuple(_ends())
"""Where blocks end, in characters from the beginning."""
