"""Several sequences laid on one token axis."""

import pytest

from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.rows import Rows, lay_flat


def test_rows_of_two_sequences_lie_one_behind_the_other():
    """Positions continue each sequence's own past; a sequence that wants no logits gets none."""
    pool = KVPool(2)
    fresh, begun = SequenceCache(pool), SequenceCache(pool)
    begun.reserve(5)
    begun.commit(5)
    flat = lay_flat([Rows([11, 12, 13], fresh, num_logits=0), Rows([21, 22], begun, num_logits=1)])
    assert flat.tokens == [11, 12, 13, 21, 22]
    assert flat.positions == [0, 1, 2, 5, 6]
    assert flat.wanted == [4]
    assert [(span.cache, span.start, span.stop) for span in flat.spans] == [
        (fresh, 0, 3),
        (begun, 3, 5),
    ]
    assert not flat.wants_all


def test_a_batch_that_wants_every_row_says_so():
    """As many logits as tokens in each sequence are all of the batch."""
    pool = KVPool(2)
    flat = lay_flat(
        [Rows([1, 2], SequenceCache(pool), num_logits=2), Rows([3], SequenceCache(pool))]
    )
    assert flat.wanted == [0, 1, 2]
    assert flat.wants_all


def test_rows_of_a_tree_stand_behind_their_own_ancestors():
    """A node's position is that of its depth, whatever was created before it."""
    cache = SequenceCache(KVPool(1))
    cache.reserve(10)
    cache.commit(10)
    flat = lay_flat([Rows([1, 2, 3, 4, 5], cache, parents=[-1, 0, 0, 1, 3])])
    assert flat.positions == [10, 11, 11, 12, 13]


@pytest.mark.parametrize(
    ("parents", "words"),
    [([-1, 1], "row 1 has parent 1"), ([-1], "2 rows with 1 parents"), ([-2, 0], "parent -2")],
)
def test_parents_that_are_no_tree_are_refused(parents, words):
    """A parent stands before its child, and every row has one."""
    with pytest.raises(ValueError, match=words):
        lay_flat([Rows([1, 2], SequenceCache(KVPool(1)), parents=parents)])
