"""The round loop with fake clients."""

import logging

import numpy as np
import pytest

from finetune.errors import RoundError
from finetune.rounds import FederationState, Replies, judge, run_round, run_rounds
from finetune.updates import Evaluation, Refusal, Update

START = {"a": np.zeros((1, 2), np.float32)}


class FakeClients:
    """Clients that add their own number; `bad` maps a name to what it sends instead."""

    def __init__(self, bad=None, loss=1.0):
        self.bad, self.loss = bad or {}, loss
        self.rounds = []

    def train(self, tensors, *, round_number):
        self.rounds.append(round_number)
        updates = []
        for number, name in enumerate(["x", "y", "z"], start=1):
            tensor = self.bad.get(name, tensors["a"] + np.float32(number))
            updates.append(Update(name, {"a": tensor}, number, loss=0.5, sent_bytes=10))
        return Replies(updates, [Refusal("node 9", "failed: gone", 7)], download_bytes=100)

    def tell(self, refusals):
        self.told = [(refusal.client, refusal.reason) for refusal in refusals]

    def evaluate(self, tensors):
        return [Evaluation("x", self.loss, 50)]


def state(completed_rounds=0):
    """Return a state that starts from zeros."""
    return FederationState(completed_rounds, START, (Evaluation("x", 2.0, 50),))


def test_a_round_averages_and_accounts():
    """Weights 1, 2, 3 of 6; bytes both ways; failures counted; time from the clock."""
    ticks = iter([10.0, 12.5])
    after, record = run_round(state(), FakeClients(), clock=lambda: next(ticks))
    np.testing.assert_allclose(after.tensors["a"], np.full((1, 2), 14 / 6), rtol=1e-6)
    assert (after.completed_rounds, after.num_refused) == (1, 1)
    assert record.loss == {"x": 0.5, "y": 0.5, "z": 0.5}
    assert record.refused == {"node 9": "failed: gone"}
    assert (record.download_bytes, record.upload_bytes, record.seconds) == (100, 37, 2.5)


def test_a_refused_update_leaves_renormalised_weights(caplog):
    """NaN from y: x and z are averaged 1 to 3, and the refusal is logged and counted."""
    clients = FakeClients({"y": np.full((1, 2), np.nan, np.float32)})
    with caplog.at_level(logging.WARNING):
        after, record = run_round(state(), clients)
    np.testing.assert_allclose(after.tensors["a"], np.full((1, 2), 10 / 4), rtol=1e-6)
    assert record.refused["y"] == "a holds NaN or infinity"
    assert after.num_refused == 2
    assert clients.told == [("node 9", "failed: gone"), ("y", "a holds NaN or infinity")]
    assert "client=y" in caplog.text


def test_no_usable_update_ends_the_job():
    """With every update refused there is nothing to average."""
    shape = np.zeros((2, 2), np.float32)
    with pytest.raises(RoundError, match="round 1: every update was refused"):
        run_round(state(), FakeClients(dict.fromkeys("xyz", shape)))


def test_rounds_go_on_where_the_state_stands():
    """Completed rounds are not repeated, and each new one is saved."""
    clients, saved = FakeClients(), []
    run_rounds(state(2), clients, num_rounds=4, save=lambda s, r: saved.append(r.round))
    assert clients.rounds == saved == [3, 4]


def test_a_loss_that_is_no_number_ends_the_job():
    """An adapter whose held-out loss is NaN is not reported as a result."""
    with pytest.raises(RoundError, match="held-out loss of client 'x' is nan"):
        judge(FakeClients(loss=float("nan")), START)
