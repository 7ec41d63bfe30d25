"""The round loop with fake clients."""

import logging

import numpy as np
import pytest

from finetune.aggregation import STRATEGIES, Aggregation
from finetune.errors import RoundError
from finetune.held_out import Judgement
from finetune.rounds import FederationState, Replies, judge, run_round, run_rounds
from finetune.trust.checks import Checks
from finetune.trust.config import TrustConfig
from finetune.trust.round_trust import RoundTrust
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
        return Judgement((Evaluation("x", self.loss, 50),))


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
    run_rounds(
        state(2),
        clients,
        num_rounds=4,
        save=lambda s, r: saved.append(r.round),
    )
    assert clients.rounds == saved == [3, 4]


def test_a_loss_that_is_no_number_ends_the_job():
    """An adapter whose held-out loss is NaN is not reported as a result."""
    with pytest.raises(RoundError, match="client 'x' reports a held-out loss of nan"):
        judge(FakeClients(loss=float("nan")), START)


DOWN, UP = "base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"


class FactorClients:
    """Two clients whose factors differ; they send what `sends` picks of them."""

    def __init__(self, sends=(DOWN, UP)):
        self.sends = sends

    def train(self, tensors, *, round_number):
        updates = []
        for number, name in enumerate(["x", "y"], start=1):
            mine = {
                DOWN: np.array([[number, 1 - number]], np.float32),
                UP: np.array([[1], [number]], np.float32),
            }
            mine = {name: mine[name] for name in self.sends}
            updates.append(Update(name, mine, 1, loss=0.5, sent_bytes=10))
        return Replies(updates, [], download_bytes=100)

    def tell(self, refusals):
        self.told = refusals


def factor_state():
    """Return the state before the first round: A drawn, B zero."""
    start = {DOWN: np.array([[3, 4]], np.float32), UP: np.zeros((2, 1), np.float32)}
    return FederationState(0, start, ())


def test_the_aggregation_error_is_recorded_and_logged(caplog):
    """Means of factors against the mean of products: the distance worked out on paper."""
    aggregation = Aggregation(STRATEGIES["fedavg"], scale=2.0)
    with caplog.at_level(logging.INFO):
        _, record = run_round(factor_state(), FactorClients(), aggregation=aggregation)
    products = [np.array([[1, 0], [1, 0]]), np.array([[2, -1], [4, -2]])]
    wanted = 2.0 * np.mean(products, axis=0)
    made = 2.0 * np.array([[1.0], [1.5]]) @ np.array([[1.5, -0.5]])
    distance = np.linalg.norm(wanted - made)
    assert record.aggregation_error.absolute == pytest.approx(distance)
    assert record.aggregation_error.relative == pytest.approx(distance / np.linalg.norm(wanted))
    assert "aggregation_error=" in caplog.text


@pytest.mark.parametrize("sends", [(UP,), (DOWN, UP)])
def test_a_frozen_factor_is_the_servers_whatever_clients_send(sends):
    """With A frozen, updates without it are whole, and another A in one changes nothing."""
    aggregation = Aggregation(STRATEGIES["ffa"], scale=2.0)
    start = factor_state()
    after, record = run_round(start, FactorClients(sends), aggregation=aggregation)
    np.testing.assert_array_equal(after.tensors[DOWN], start.tensors[DOWN])
    np.testing.assert_allclose(after.tensors[UP], [[1.0], [1.5]])
    assert record.aggregation_error.relative < 1e-7
    assert not record.refused


class UnequalClients(FactorClients):
    """`x` trains one component of two, `y` both, with shapes that `changes` can spoil."""

    def __init__(self, changes=None):
        self.changes = changes or {}

    def train(self, tensors, *, round_number):
        mine = {DOWN: np.array([[1, 2, 3]], np.float32), UP: np.array([[1], [2]], np.float32)}
        whole = {DOWN: np.eye(2, 3, dtype=np.float32), UP: np.eye(2, dtype=np.float32)}
        updates = [
            Update("x", mine | self.changes, 1, loss=0.5, sent_bytes=10),
            Update("y", whole, 3, loss=0.5, sent_bytes=20),
        ]
        return Replies(updates, [], download_bytes=100)


def unequal_round(clients):
    """Run one round of rank 2 in which `x` has rank 1."""
    aggregation = Aggregation(STRATEGIES["best-rank"], scale=2.0, client_ranks={"x": 1, "y": 2})
    start = {DOWN: np.ones((2, 3), np.float32), UP: np.zeros((2, 2), np.float32)}
    return run_round(FederationState(0, start, ()), clients, aggregation=aggregation)


def test_a_client_of_lower_rank_counts_by_its_product():
    """One component from x and two from y: the weighted mean of their products, exactly."""
    after, record = unequal_round(UnequalClients())
    products = np.array([[1.0, 2, 3], [2, 4, 6]]), np.eye(2, 3)
    made = after.tensors[UP] @ after.tensors[DOWN]
    np.testing.assert_allclose(made, products[0] / 4 + products[1] * 3 / 4, atol=1e-6)
    assert record.refused == {}
    assert record.aggregation_error.relative < 1e-6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({UP: np.ones((2, 2), np.float32)}, f"{DOWN} has shape (1, 3), not (2, 3)"),
        ({UP: np.ones(2, np.float32)}, f"{DOWN} has shape (1, 3), not (2, 3)"),
        ({UP: np.full((2, 1), np.nan, np.float32)}, f"{UP} holds NaN or infinity"),
        ({"c": np.ones(1, np.float32)}, "holds 1 unknown tensors, first c"),
    ],
)
def test_a_broken_update_of_lower_rank_is_refused(changes, reason):
    """Padding mends no update of another form."""
    _, record = unequal_round(UnequalClients(changes))
    assert record.refused == {"x": reason}


class IdleClients(FactorClients):
    """`x` trains one component of two, `y` both; neither changes what it was sent."""

    def train(self, tensors, *, round_number):
        mine = {DOWN: tensors[DOWN][:1], UP: tensors[UP][:, :1]}
        updates = [Update("x", mine, 3, loss=0.5, sent_bytes=10)]
        updates.append(Update("y", dict(tensors), 1, loss=0.5, sent_bytes=20))
        return Replies(updates, [], download_bytes=100)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("trust", [{}, {"most_norm": 1e-3, "clip_norm": 1e-3}])
def test_what_nobody_trains_stays(name, trust):
    """Components that a client does not send are the server's, not a change to zero."""
    aggregation = Aggregation(STRATEGIES[name], scale=2.0, client_ranks={"x": 1, "y": 2})
    generator = np.random.default_rng(4)
    start = {
        DOWN: generator.normal(size=(2, 5)).astype(np.float32),
        UP: generator.normal(size=(4, 2)).astype(np.float32),
    }
    config = TrustConfig.model_validate(trust)
    after, record = run_round(
        FederationState(0, start, ()),
        IdleClients(),
        aggregation=aggregation,
        trust=RoundTrust(config, Checks(most_norm=config.most_norm), num_expected=2),
    )
    assert record.refused == {}
    product = after.tensors[UP] @ after.tensors[DOWN]
    np.testing.assert_allclose(product, start[UP] @ start[DOWN], rtol=1e-4, atol=1e-5)
