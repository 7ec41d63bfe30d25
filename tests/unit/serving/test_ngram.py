"""The n-gram drafter against a search through the whole text."""

import random

import pytest

from serving.engine.ngram import NgramIndex


def search(tokens: list[int], shortest: int, longest: int, count: int) -> list[int]:
    """Propose by brute force: every run length, every earlier place, the latest first."""
    for length in range(longest, shortest - 1, -1):
        suffix = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == suffix:
                copy = list(tokens)
                for _ in range(count):
                    copy.append(copy[start + length + len(copy) - len(tokens)])
                return copy[len(tokens) :]
    return []


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 3), (2, 4), (3, 3)])
@pytest.mark.parametrize("vocabulary_size", [1, 2, 5])
def test_proposals_are_those_of_a_search(shortest, longest, vocabulary_size):
    """After every token of random texts, taken in piece by piece, index and search agree."""
    rng = random.Random(shortest * 10 + longest)
    for _ in range(5):
        index, tokens = NgramIndex(min_tokens=shortest, max_tokens=longest), []
        while len(tokens) < 60:
            piece = rng.choices(range(vocabulary_size), k=rng.randrange(4))
            index.extend(piece)
            tokens += piece
            assert index.propose(5) == search(tokens, shortest, longest, 5)


def test_the_longest_suffix_wins_over_a_later_shorter_one():
    """'1 2 3' was followed by 4; the later '3' alone, followed by 9, does not count."""
    index = NgramIndex(min_tokens=1, max_tokens=3)
    index.extend([1, 2, 3, 4, 5, 3, 9, 1, 2, 3])
    assert index.propose(2) == [4, 5]


def test_a_repeating_text_is_guessed_to_repeat():
    """The copy runs on into itself past the end of the text."""
    index = NgramIndex(min_tokens=2, max_tokens=2)
    index.extend([7, 8, 7, 8])
    assert index.propose(5) == [7, 8, 7, 8, 7]


def test_nothing_is_guessed_where_nothing_recurs():
    """A text of distinct tokens, an empty one, and a wish for none give empty drafts."""
    index = NgramIndex()
    assert index.propose(3) == []
    index.extend(range(20))
    assert index.propose(3) == []
    index.extend(range(20))
    assert index.propose(0) == []


@pytest.mark.parametrize(("shortest", "longest"), [(0, 2), (3, 2)])
def test_an_empty_range_of_runs_is_refused(shortest, longest):
    """The message names both ends."""
    with pytest.raises(ValueError, match=f"{shortest} to {longest}"):
        NgramIndex(min_tokens=shortest, max_tokens=longest)
