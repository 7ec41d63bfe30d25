"""Several sequences laid on one token axis."""

from serving.engine.flat_attention import Span
from serving.engine.kv_cache import SequenceCache
from serving.engine.rows import FlatRows, Rows, lay_flat


def test_rows_of_two_sequences_lie_one_behind_the_other():
    """Positions continue each sequence's own past; a sequence that wants no logits gets none."""
    fresh, begun = SequenceCache(8), SequenceCache(8)
    begun.commit(5)
    flat = lay_flat([Rows([11, 12, 13], fresh, num_logits=0), Rows([21, 22], begun, num_logits=1)])
    assert flat == FlatRows(
        tokens=[11, 12, 13, 21, 22],
        positions=[0, 1, 2, 5, 6],
        wanted=[4],
        spans=[Span(fresh, 0, 3), Span(begun, 3, 5)],
    )
    assert not flat.wants_all


def test_a_batch_that_wants_every_row_says_so():
    """As many logits as tokens in each sequence are all of the batch."""
    flat = lay_flat([Rows([1, 2], SequenceCache(8), num_logits=2), Rows([3], SequenceCache(8))])
    assert flat.wanted == [0, 1, 2]
    assert flat.wants_all
