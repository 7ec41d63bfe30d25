"""Which prefixes a replica holds, against a brute-force comparison of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.prefix_blocks import BLOCK_ENDS, MOST_CHARACTERS, blocks_of
from router.prefix_tree import PrefixTree

PIECES = st.lists(st.sampled_from("abc"), max_size=8).map(
    lambda letters: "".join(letter * 40 for letter in letters)
)
"""Texts of runs of 40 letters: few enough that many share a prefix, not cut where blocks end."""


def common_blocks(text: str, others: list[str]) -> int:
    """Return how many whole blocks of `text` begin one of the others, letter by letter."""
    return max(
        (
            sum(other[:end] == text[:end] and len(other) >= end for end in BLOCK_ENDS[:40])
            for other in others
        ),
        default=0,
    )


def held_paths(tree: PrefixTree, texts: list[str]) -> bool:
    """Return whether of each text exactly the first `match` blocks are held and no later one."""
    for text in texts:
        hashes = blocks_of(text).hashes
        num_held = tree.match(hashes)
        if any(
            (tree.match((each,)) == 1) != (place < num_held) for place, each in enumerate(hashes)
        ):
            return False
    return True


@given(st.lists(PIECES, max_size=12), PIECES)
def test_the_match_is_the_longest_common_prefix_in_blocks(held: list[str], asked: str) -> None:
    """With room for all, the match is what comparing the texts letter by letter finds."""
    tree = PrefixTree()
    for text in held:
        tree.hold(blocks_of(text).hashes)
    assert tree.match(blocks_of(asked).hashes) == common_blocks(asked, held)


@given(st.lists(PIECES, max_size=20), st.integers(1, 12), st.integers(64, 1000) | st.none())
def test_limits_hold_and_what_is_left_is_whole_paths(
    texts: list[str], most_nodes: int, most_characters: int | None
) -> None:
    """After every prompt the tree is within both limits, and no block is held without those before."""
    tree = PrefixTree()
    for text in texts:
        tree.hold(blocks_of(text).hashes, most_nodes=most_nodes, most_characters=most_characters)
        assert len(tree) <= most_nodes
        assert most_characters is None or tree.num_characters <= most_characters
        assert tree.num_characters == 64 * len(tree)
        assert held_paths(tree, texts)


def test_the_least_recently_used_goes_first() -> None:
    """Of three prompts in room for two, the one not used again is forgotten, its end first."""
    tree = PrefixTree()
    first, second, third = [blocks_of(letter * 128).hashes for letter in "abc"]
    tree.hold(first, most_nodes=4)
    tree.hold(second, most_nodes=4)
    tree.hold(first, most_nodes=4)
    tree.hold(third[:1], most_nodes=4)
    assert [tree.match(each) for each in (first, second, third)] == [2, 1, 1]
    tree.hold(third, most_nodes=4)
    assert [tree.match(each) for each in (first, second, third)] == [2, 0, 2]
    tree.clear()
    assert (len(tree), tree.num_characters, tree.match(first)) == (0, 0, 0)


@pytest.mark.parametrize("num_characters", [0, 63, 64, 4096, 5000, MOST_CHARACTERS, 3 * 2**20])
def test_work_on_long_texts_is_bounded(num_characters: int) -> None:
    """A text of any length has at most 300 blocks, which end inside it."""
    blocks = blocks_of("x" * num_characters)
    assert len(blocks.hashes) <= 300
    assert len(blocks.hashes) == sum(end <= num_characters for end in BLOCK_ENDS)
    assert blocks.fraction(len(blocks.hashes)) <= 1
    assert bool(blocks.hashes) == (num_characters >= 64)


def test_another_model_shares_nothing() -> None:
    """The same text under another model or adapter has other hashes; the text's share is the same."""
    blocks = blocks_of("x" * 256)
    assert not set(blocks.seeded("a").hashes) & set(blocks.seeded("b").hashes)
    assert blocks.seeded("a").fraction(2) == 0.5
