"""Rows of several sequences, cut into equal shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.sequence_parallel.head_exchange import num_key_value_copies
from finetune.sequence_parallel.packed_rows import NO_LABEL, num_targets, pack_row


def ids(*numbers):
    return np.array(numbers, dtype=np.int64)


def test_one_share():
    """Positions begin anew with each sequence, whose last token is a label alone."""
    share = pack_row([ids(5, 6, 7), ids(4), ids(8, 9)], degree=1, member=0)
    assert share.token_ids.tolist() == [5, 6, 8]
    assert share.positions.tolist() == [0, 1, 0]
    assert share.labels.tolist() == [6, 7, 9]
    assert share.spans == (0, 2, 3)


def test_a_share_in_the_middle_of_a_sequence():
    """A label may be the next rank's first token; padding is a span of its own and predicts nothing."""
    first = pack_row([ids(5, 6, 7, 3), ids(8, 9, 4)], degree=2, member=0)
    second = pack_row([ids(5, 6, 7, 3), ids(8, 9, 4)], degree=2, member=1)
    assert first.labels.tolist() == [6, 7, 3]
    assert second.token_ids.tolist() == [8, 9, 0]
    assert second.labels.tolist() == [9, 4, NO_LABEL]
    assert first.spans == second.spans == (0, 3, 5, 6)


@pytest.mark.parametrize("sequences", [[], [ids()], [ids(5), ids(6)]])
def test_nothing_to_train(sequences):
    """Without a token that predicts, every rank still has one, of padding."""
    share = pack_row(sequences, degree=4, member=3)
    assert share.token_ids.tolist() == [0]
    assert share.labels.tolist() == [NO_LABEL]
    assert share.spans == (0, 4)


@given(st.lists(st.integers(0, 12), max_size=6), st.integers(1, 6))
def test_shares_make_up_the_row(lengths, degree):
    """Shares are of one size, hold in order every token that predicts, and predict each once."""
    sequences = [np.arange(length, dtype=np.int64) + 100 * i for i, length in enumerate(lengths)]
    shares = [pack_row(sequences, degree=degree, member=m) for m in range(degree)]
    assert len({len(share.token_ids) for share in shares}) == 1
    row = np.concatenate([share.token_ids for share in shares])
    total = num_targets(sequences)
    assert row[:total].tolist() == [token for sequence in sequences for token in sequence[:-1]]
    assert total <= len(row) < max(total, 1) + degree
    labels = np.concatenate([share.labels for share in shares])
    followers = [token for sequence in sequences for token in sequence[1:]]
    assert labels.tolist() == followers + [NO_LABEL] * (len(row) - total)
    assert shares[0].spans[-1] == len(row)
    positions = np.concatenate([share.positions for share in shares])
    assert [i for i, position in enumerate(positions) if position == 0] == list(
        shares[0].spans[:-1]
    )


def test_repeated_key_value_heads():
    """Key-value heads are repeated no more often than the degree asks."""
    assert [num_key_value_copies(2, degree) for degree in (1, 2, 4, 3)] == [1, 1, 2, 3]
    assert num_key_value_copies(8, 4) == 1
    assert num_key_value_copies(6, 4) == 2
