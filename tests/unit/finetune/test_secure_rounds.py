"""Rounds whose updates come as a secure sum, over Flower's messages in one process."""

import logging

import numpy as np
import pytest

from finetune.config import JobConfig
from finetune.errors import FinetuneError, SecureSumError
from finetune.flower import GridClients, make_client_app
from finetune.flower_sparse import SparseExchange
from finetune.in_process_grid import InProcessGrid
from finetune.rounds import FederationState, run_round
from finetune.secure_rounds.member import add_secure_sum
from finetune.secure_rounds.secure_job import clients_of, members_of
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.ends import SparseEnds
from finetune.trust.checks import FORM_ONLY, Checks
from finetune.trust.identity import BaseIdentity
from finetune.trust.round_trust import RoundTrust

START = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((3, 2), np.float32)}
NAMES = ("one", "two", "three", "four")
OURS, OTHER = BaseIdentity(b"w", b"t", b"c"), BaseIdentity(b"w", b"x", b"c")


class FakeTrainer:
    """Adds its number to every tensor, and has as many examples."""

    def __init__(self, number):
        self.num_examples, self.step = number, float(number)

    def train(self, tensors, *, round_number):
        return {name: tensor + np.float32(self.step) for name, tensor in tensors.items()}, self.step

    def evaluate(self, tensors):
        return 1.0, 1


def job(**trust):
    """Return a job of four clients, of whom three must stay."""
    return JobConfig.model_validate(
        {
            "schema_version": 1, "name": "j", "model": "m", "rank": 2, "alpha": 4, "rounds": 2,
            "target_modules": ["q_proj"], "local_steps": 1, "batch_size": 1, "sequence_tokens": 8,
            "learning_rate": 0.1, "held_out_fraction": 0.1, "output": "o",
            "clients": [{"name": n, "data": {"kind": "package", "name": "rich"}} for n in NAMES],
            "trust": {"secure_sum": {"threshold": 3}, "clip_norm": 100.0} | trust,
        }
    )  # fmt: skip


class Federation:
    """Four clients, and the server's view of them; `fails` maps a client to where it gives up."""

    def __init__(self, fails=None, *, identities=None, trainers=None, **trust):
        self.job, self.fails, self.seen = job(**trust), fails or {}, []
        trainers = trainers or {name: FakeTrainer(i) for i, name in enumerate(NAMES, start=1)}
        identities = dict.fromkeys(NAMES, OURS) | (identities or {})
        app = make_client_app(
            trainers.__getitem__, identity_of=identities.__getitem__, gives_updates=False
        )
        add_secure_sum(app, trainers.__getitem__, members_of(self.job).__getitem__)

        def failing(message, context):
            if self.fails.get(context.node_config["client"]) == message.metadata.message_type:
                raise FinetuneError("out of power")
            reply = app(message, context)
            self.seen.append(reply)
            return reply

        nodes = {number: {"client": name} for number, name in enumerate(NAMES, start=2)}
        self.grid = InProcessGrid(failing, nodes)
        self.clients = clients_of(self.grid, self.job, Checks(identity=OURS))


def test_the_one_update_is_the_mean_weighted_by_examples():
    """Changes 1 to 4 with weights 1 to 4: the adapter moves by 3, within the grid's error."""
    federation = Federation()
    replies = federation.clients.train(START, round_number=1)
    (update,) = replies.updates
    assert (update.client, update.num_examples, update.loss) == ("secure sum of 4", 10, 3.0)
    for name, tensor in START.items():
        np.testing.assert_allclose(update.tensors[name], tensor + 3, atol=1e-5)
    assert replies.refusals == []
    assert not any("arrays" in reply.content for reply in federation.seen)


@pytest.mark.parametrize(
    ("action", "mean"),
    [("keys", 21 / 7), ("shares", 21 / 7), ("masked", 21 / 7), ("revealed", 30 / 10)],
)
def test_a_client_lost_anywhere_does_not_stop_the_round(action, mean, caplog):
    """Client three fails: before its values came it is refused and the other weights count.

    Later its values are in the sum, and only its shares of others' secrets are missed.
    """
    trainers = {name: FakeTrainer(i) for i, name in enumerate(NAMES, start=1)}
    trainers["three"].step = 30.0 if action != "revealed" else 3.0
    federation = Federation({"three": f"train.{action}"}, trainers=trainers)
    with caplog.at_level(logging.WARNING):
        replies = federation.clients.train(START, round_number=1)
    (update,) = replies.updates
    np.testing.assert_allclose(update.tensors["b"], np.full((3, 2), mean), atol=1e-5)
    reasons = [refusal.reason for refusal in replies.refusals]
    assert reasons == ([] if action == "revealed" else ["failed: out of power"])
    assert "lost" in caplog.text


def test_a_claim_of_examples_is_capped_in_the_sum_too(caplog):
    """Changes 1 to 4 with weights 1, 2, 2 and 2: the adapter moves by 19 / 7."""
    with caplog.at_level(logging.INFO):
        replies = Federation(most_examples=2).clients.train(START, round_number=1)
    (update,) = replies.updates
    assert update.num_examples == 7
    np.testing.assert_allclose(update.tensors["b"], np.full((3, 2), 19 / 7), atol=1e-5)
    assert "examples capped clients=['four']" in caplog.text


def test_with_fewer_than_the_threshold_the_round_ends():
    """Two of four fail: no sum of two is shown."""
    federation = Federation({"one": "train.masked", "two": "train.masked"})
    with pytest.raises(SecureSumError, match="2 clients sent MASKED, 3 are needed"):
        federation.clients.train(START, round_number=1)


def test_a_client_of_another_base_model_is_left_out_and_told(caplog):
    """It is refused by what it declares, before it shares anything; the next message says why."""
    federation = Federation(identities={"two": OTHER})
    trust = RoundTrust(federation.job.trust, Checks(identity=OURS), num_expected=4)
    state = FederationState(0, START, ())
    state, record = run_round(state, federation.clients, trust=trust)
    assert record.refused.keys() == {"two"}
    assert record.loss.keys() == {"secure sum of 3"}
    np.testing.assert_allclose(state.tensors["b"], np.full((3, 2), 26 / 8), atol=1e-5)
    caplog.clear()
    run_round(state, federation.clients, trust=trust)
    assert "server refused the last reply client=two reason=\"base model's tokenizer" in caplog.text


def test_changes_are_clipped_by_the_client():
    """Twelve entries of 4 are cut to norm 1 before the server could see them."""
    trainers = {name: FakeTrainer(4) for name in NAMES}
    (update,) = (
        Federation(trainers=trainers, clip_norm=1.0).clients.train(START, round_number=1).updates
    )
    np.testing.assert_allclose(update.tensors["b"], np.full((3, 2), 12**-0.5), atol=1e-6)


def test_training_that_went_wrong_is_refused_by_its_own_client():
    """NaN cannot be masked; the others go on."""
    trainers = {name: FakeTrainer(1) for name in NAMES}
    trainers["four"].step = float("nan")
    replies = Federation(trainers=trainers).clients.train(START, round_number=1)
    assert [refusal.reason for refusal in replies.refusals] == [
        "failed: training gave NaN or infinity; lower learning_rate"
    ]


def test_with_privacy_noise_is_added_once_to_the_unweighted_sum():
    """Clients clip and count alike; the mean over those asked carries the noise."""
    privacy = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "most_epsilon": 9.0}
    federation = Federation(clip_norm=None, privacy=privacy)
    first = federation.clients.train(START, round_number=1).updates[0].tensors["b"]
    second = federation.clients.train(START, round_number=2).updates[0].tensors["b"]
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first - 12**-0.5).max() < 6 / 4 + 1e-6


def test_clients_of_a_secure_job_give_no_single_update():
    """A server that asks for one is refused."""
    federation = Federation()
    with pytest.raises(ValueError, match="No train function"):
        GridClients(federation.grid).train(START, round_number=1)


def test_a_job_without_secure_sums_has_plain_clients():
    """The same call gives the clients whose updates the server sees."""
    plain = job().model_copy(update={"trust": RoundTrust().config})
    grid = Federation().grid
    assert type(clients_of(grid, plain, FORM_ONLY)) is GridClients
    assert members_of(plain) == {}


def test_a_process_that_began_within_a_round_is_lost_to_it():
    """Secrets are in no file; the client says so."""
    first, second = Federation(), Federation()
    first.clients._replies = lambda messages: [
        reply
        for message in messages
        for reply in (
            second.grid if message.metadata.message_type == "train.shares" else first.grid
        ).send_and_receive([message])
    ]
    with pytest.raises(SecureSumError, match="0 clients sent SHARES"):
        first.clients.train(START, round_number=1)


def test_a_shared_mask_sums_its_entries_alone():
    """Half of the 16 entries cross, B and A as the turn wills; the rest follow in the next round."""
    settings = SparsityConfig(download_density=1, upload_density=0.5, mask="shared")
    content = job().model_copy(update={"sparsity": settings})
    start = {
        "q.lora_A.weight": np.ones((2, 5), np.float32),
        "q.lora_B.weight": np.zeros((3, 2), np.float32),
    }
    trainers = {name: FakeTrainer(2) for name in NAMES}
    ends = SparseEnds(start, settings)
    app = make_client_app(trainers.__getitem__, sparse=ends.clients, gives_updates=False)
    members = members_of(content).__getitem__
    add_secure_sum(app, trainers.__getitem__, members, sparse=ends.clients)
    nodes = {number: {"client": name} for number, name in enumerate(NAMES, start=2)}
    clients = clients_of(InProcessGrid(app, nodes), content, FORM_ONLY, SparseExchange(ends.server))
    tensors = start
    for number, num_moved in ((1, 8), (2, 16)):
        replies = clients.train(tensors, round_number=number)
        tensors = replies.updates[0].tensors
        steps = np.concatenate([(tensors[n] - start[n]).ravel() for n in tensors])
        assert np.isclose(steps, 2, atol=1e-4).sum() == num_moved
        assert np.isclose(steps, 0, atol=1e-6).sum() == 16 - num_moved
        assert replies.download.num_whole == 4


def test_a_frozen_a_is_in_no_sum():
    """Clients mask the six entries of B alone, and A stays what it was."""
    start = {
        "q.lora_A.weight": np.ones((2, 50), np.float32),
        "q.lora_B.weight": np.zeros((3, 2), np.float32),
    }

    class OfB(FakeTrainer):
        def train(self, tensors, *, round_number):
            name = "q.lora_B.weight"
            return {name: tensors[name] + np.float32(self.step)}, self.step

    trainers = {name: OfB(2) for name in NAMES}
    content = job().model_copy(update={"aggregation": "ffa"})
    app = make_client_app(trainers.__getitem__, gives_updates=False)
    add_secure_sum(app, trainers.__getitem__, members_of(content).__getitem__)
    nodes = {number: {"client": name} for number, name in enumerate(NAMES, start=2)}
    clients = clients_of(InProcessGrid(app, nodes), content, FORM_ONLY)
    (update,) = clients.train(start, round_number=1).updates
    np.testing.assert_array_equal(update.tensors["q.lora_A.weight"], 1)
    np.testing.assert_allclose(update.tensors["q.lora_B.weight"], 2, atol=1e-5)
    assert clients._job.num_entries(start, round_number=1) == 6
