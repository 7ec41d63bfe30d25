"""FedAvg against hand-computed clients and its invariances."""

import itertools

import numpy as np
import pytest

from finetune.aggregation import FEDAVG
from finetune.updates import Update

A, B = "layer.lora_A.weight", "layer.lora_B.weight"


def update(client, num_examples, a, b):
    """Return an update of one layer's factors."""
    tensors = {A: np.array(a, np.float32), B: np.array(b, np.float32)}
    return Update(client, tensors, num_examples, loss=1.0, sent_bytes=0)


@pytest.fixture
def three_clients():
    """Three clients with round numbers."""
    return [
        update("x", 1, [[1.0, 2.0, 3.0]], [[4.0], [0.0]]),
        update("y", 2, [[4.0, 2.0, 0.0]], [[0.0], [2.0]]),
        update("z", 1, [[-1.0, 6.0, 1.0]], [[8.0], [4.0]]),
    ]


def fedavg(clients):
    """Return the mean of clients of one rank and alpha."""
    like = clients[0].tensors if clients else {}
    return FEDAVG.combine(clients, like=like, round_number=1)[0]


def random_clients(seed, num_clients=4):
    """Return clients with seeded factors and weights."""
    generator = np.random.default_rng(seed)
    return [
        update(
            f"client{index}",
            int(generator.integers(1, 50)),
            generator.normal(size=(2, 5)),
            generator.normal(size=(7, 2)),
        )
        for index in range(num_clients)
    ]


def test_three_clients_by_hand(three_clients):
    """Weights 1/4, 1/2, 1/4: the means of A and of B worked out on paper."""
    mean = fedavg(three_clients)
    np.testing.assert_array_equal(mean[A], np.array([[2.0, 3.0, 1.0]], np.float32))
    np.testing.assert_array_equal(mean[B], np.array([[3.0], [2.0]], np.float32))
    assert mean[A].dtype == np.float32


def test_order_of_clients_does_not_matter():
    """Any permutation gives the same float32 values."""
    clients = random_clients(1)
    expected = fedavg(clients)
    for order in itertools.permutations(clients):
        mean = fedavg(order)
        for name in expected:
            np.testing.assert_allclose(mean[name], expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("factor", [3, 1000])
def test_scaling_all_weights_changes_nothing(factor):
    """Only the shares of the examples count."""
    clients = random_clients(2)
    scaled = [
        Update(c.client, c.tensors, c.num_examples * factor, c.loss, c.sent_bytes) for c in clients
    ]
    for name, tensor in fedavg(clients).items():
        np.testing.assert_allclose(fedavg(scaled)[name], tensor, rtol=1e-6, atol=1e-7)


def test_one_client_is_returned_unchanged():
    """A single update is its own mean, bit for bit."""
    (client,) = random_clients(3, num_clients=1)
    for name, tensor in fedavg([client]).items():
        np.testing.assert_array_equal(tensor, client.tensors[name])


def test_splitting_a_client_changes_nothing():
    """Two clients with the same adapter weigh what one with all their examples weighs."""
    first, second = random_clients(4, num_clients=2)
    halves = [Update(f"half{i}", first.tensors, first.num_examples, 1.0, 0) for i in range(2)]
    whole = Update("whole", first.tensors, 2 * first.num_examples, 1.0, 0)
    for name, tensor in fedavg([whole, second]).items():
        np.testing.assert_allclose(fedavg([*halves, second])[name], tensor, rtol=1e-6, atol=1e-7)


def test_no_update_is_the_callers_mistake():
    """An empty list has no mean."""
    with pytest.raises(ValueError, match="no update"):
        fedavg([])
