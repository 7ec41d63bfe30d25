"""What both ends make from the seed is left out of messages, and checked."""

import numpy as np
import pytest

from finetune.errors import PayloadError
from finetune.factors import resized
from finetune.flower_records import DenseExchange, dense_record, received
from finetune.seeded import Seeded

A, B = "base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"


def adapter(seed=0, rank=4):
    """Return a seeded adapter."""
    generator = np.random.default_rng(seed)
    return {
        A: generator.normal(size=(rank, 6)).astype(np.float32),
        B: generator.normal(size=(5, rank)).astype(np.float32),
    }


@pytest.mark.parametrize("rank", [4, 2])
def test_a_frozen_a_does_not_cross_and_is_there_all_the_same(rank):
    """B alone is in the message, at a client's own rank too; the client has both."""
    first = adapter()
    now = resized(first | {B: first[B] + 1}, rank)
    seeded = Seeded.frozen_down(first)
    record = dense_record(now, seeded, round_number=3)
    assert list(record["arrays"]) == [B]
    got = received(record, seeded)
    for name, tensor in now.items():
        np.testing.assert_array_equal(got[name], tensor)


def test_another_a_than_the_seeds_crosses():
    """After a squeeze or a turn nobody has it."""
    first = adapter()
    record = dense_record(adapter(1), Seeded.frozen_down(first), round_number=3)
    assert set(record["arrays"]) == {A, B}
    np.testing.assert_array_equal(received(record, Seeded.frozen_down(first))[A], adapter(1)[A])


def test_a_client_whose_seed_gives_another_a_says_so():
    """It does not train on a mixture of two adapters."""
    record = dense_record(adapter(), Seeded.frozen_down(adapter()), round_number=1)
    with pytest.raises(PayloadError, match="use the server's job file and version of torch"):
        received(record, Seeded.frozen_down(adapter(1)))


def test_a_client_of_lower_rank_is_sent_its_components_alone():
    """One node of rank 1 and one of all four; nodes of one rank get one message."""
    tensors = adapter()
    records = DenseExchange(ranks={2: 1, 4: 9}).downloads(tensors, [2, 3, 4], round_number=1)
    shapes = [records[node]["arrays"][A].shape for node in (2, 3, 4)]
    assert [tuple(shape) for shape in shapes] == [(1, 6), (4, 6), (4, 6)]
    assert records[3] is records[4]
