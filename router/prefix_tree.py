"""Which prefixes a replica probably holds in its cache: those of the prompts it was sent lately.

The tree of all prefixes, flattened: a node is a hash of everything up to it (`prefix_blocks.py`), so
its place needs no pointers, and one ordered dictionary is both the tree and its order of use. A prompt
touches its nodes from the deepest to the first, so no node was ever used later than the one above it:
taking the node that was used longest ago takes a leaf, and what is left is always whole paths. That is
why the longest match may be found by halving.

One tree a replica, shared by its models as the replica's memory is, and bounded by nodes (about 150
bytes each) and by the characters they stand for.
"""

from collections import OrderedDict
from collections.abc import Sequence

from router.prefix_blocks import BLOCK_ENDS

MOST_NODES = 65_536
"""By default: about 10 MB a replica when full."""


class PrefixTree:
    """The prefixes one replica holds; the least recently used go first."""

    __slots__ = ("_characters", "_nodes")

    def __init__(self) -> None:
        self._nodes: OrderedDict[int, int] = OrderedDict()
        self._characters = 0

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self._nodes)

    @property
    def num_characters(self) -> int:
        """How much text the nodes stand for."""
        return self._characters

    def match(self, hashes: Sequence[int]) -> int:
        """Return how many leading blocks are held; nothing counts as used by that."""
        nodes = self._nodes
        if not hashes or hashes[0] not in nodes:
            return 0
        if hashes[-1] in nodes:
            return len(hashes)
        held, missing = 1, len(hashes)
        while missing - held > 1:
            middle = (held + missing) // 2
            if hashes[middle - 1] in nodes:
                held = middle
            else:
                missing = middle
        return held

    def hold(
        self,
        hashes: Sequence[int],
        *,
        most_nodes: int = MOST_NODES,
        most_characters: int | None = None,
    ) -> None:
        """Take note that a prompt with these blocks was sent; forget the oldest beyond the limits.

        Args:
            hashes: The prompt's blocks.
            most_nodes: How many nodes may be held after that.
            most_characters: How much text they may stand for; None: no limit.
        """
        nodes = self._nodes
        for depth in range(len(hashes) - 1, -1, -1):
            each = hashes[depth]
            if each in nodes:
                nodes.move_to_end(each)
            else:
                size = BLOCK_ENDS[depth] - (BLOCK_ENDS[depth - 1] if depth else 0)
                nodes[each] = size
                self._characters += size
        while len(nodes) > most_nodes or (
            most_characters is not None and self._characters > most_characters
        ):
            _, size = nodes.popitem(last=False)
            self._characters -= size

    def clear(self) -> None:
        """Forget everything, as a replica does that starts again."""
        self._nodes.clear()
        self._characters = 0
