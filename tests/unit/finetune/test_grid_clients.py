"""Clients over a network that answer late, wrongly, under another's name, or not at all."""

import json
import math

import numpy as np
import pytest

from finetune.declarations import REFUSED_KEY
from finetune.deployment.client import Ending, checks
from finetune.deployment.grid_clients import DeployedClients
from finetune.errors import BaseModelError, RoundError
from finetune.flower import make_client_app
from finetune.flower_sparse import SparseExchange
from finetune.in_process_grid import InProcessGrid
from finetune.patience import Patience
from finetune.rounds import FederationState, run_round
from finetune.seeded import EVERYTHING_CROSSES
from finetune.sparsity.client import SparseClients
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.ends import ServerEnd, first_copy
from finetune.sparsity.kept_clients import KeptClients, StateFolder
from finetune.sparsity.layout import Layout
from finetune.sparsity.settlement import settled
from finetune.updates import Refusal

START = {"a": np.ones((2, 3), np.float32), "b": np.zeros((3, 2), np.float32)}
BASE = "5" * 64
SPARSE = SparsityConfig.model_validate(
    {
        "download_density": 0.5,
        "upload_density": 0.25,
        "download": "change",
        "error_feedback": {},
    }
)
NAMES = {2: "one", 3: "two", 4: "three"}


class FakeTrainer:
    """Adds one, unless told to send something else."""

    num_examples = 4

    def __init__(self, value=1.0, loss=2.0):
        self.value, self.loss = value, loss

    def train(self, tensors, *, round_number):
        return {name: tensor + np.float32(self.value) for name, tensor in tensors.items()}, 1.0

    def evaluate(self, tensors):
        return self.loss, 7


class Network(InProcessGrid):
    """An in-process grid of which some nodes are silent or away; it notes what was sent."""

    def __init__(self, trainers, calls=None):
        calls = calls or {name: name for name in trainers}
        nodes = {number: {"client": calls[name]} for number, name in NAMES.items()}
        by_call = {calls[name]: trainer for name, trainer in trainers.items()}
        super().__init__(make_client_app(by_call.__getitem__), nodes)
        self.silent, self.away, self.unreadable, self.sent = set(), set(), set(), []

    def get_node_ids(self):
        return [node for node in super().get_node_ids() if node not in self.away]

    def push_messages(self, messages):
        messages = list(messages)
        self.sent += messages
        return super().push_messages(messages)

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        if any(reply.metadata.src_node_id in self.unreadable for reply in replies):
            json.loads("no JSON")
        return [reply for reply in replies if reply.metadata.src_node_id not in self.silent]


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def trainers():
    """Three honest trainers."""
    return {name: FakeTrainer() for name in NAMES.values()}


@pytest.fixture
def clock():
    """A clock of the test's own."""
    return Clock()


def clients_of(grid, clock, *, names=NAMES, check=lambda: None, least_clients=1, exchange=None):
    """Return the clients of a grid, waiting by the test's clock."""
    return DeployedClients(
        grid,
        names,
        clients=list(NAMES.values()),
        base_weights_sha256=BASE,
        least_clients=least_clients,
        exchange=exchange,
        patience=Patience(
            answer_seconds=30, connection_seconds=10, check=check, clock=clock, sleep=clock.sleep
        ),
    )


def test_updates_come_in_the_jobs_order(trainers, clock):
    """Sums are the same whoever answers first."""
    replies = clients_of(Network(trainers), clock).train(START, round_number=1)
    assert [update.client for update in replies.updates] == ["one", "two", "three"]
    assert not replies.refusals
    assert replies.download_bytes > 0


def test_a_silent_client_is_refused_after_the_deadline_and_told(trainers, clock):
    """The others count; the next message names the reason, the one after it none."""
    grid = Network(trainers)
    grid.silent = {3}
    clients = clients_of(grid, clock)
    replies = clients.train(START, round_number=1)
    assert [update.client for update in replies.updates] == ["one", "three"]
    assert [(r.client, r.reason) for r in replies.refusals] == [
        ("two", "gave no answer within 30 s")
    ]
    clients.tell(replies.refusals)
    assert 130 <= clock.now < 132
    grid.silent, grid.sent = set(), []
    clients.train(START, round_number=2)
    clients.train(START, round_number=3)
    told = [(m.metadata.dst_node_id, m.content["config"].get(REFUSED_KEY)) for m in grid.sent]
    assert told[:3] == [(2, None), (3, "gave no answer within 30 s"), (4, None)]
    assert {reason for _, reason in told[3:]} == {None}


def test_a_reply_that_flower_cannot_read_costs_its_client_alone(trainers, clock):
    """The others count, and the reason names the error."""
    grid = Network(trainers)
    grid.unreadable = {3}
    replies = clients_of(grid, clock).train(START, round_number=1)
    assert [update.client for update in replies.updates] == ["one", "three"]
    assert [(r.client, r.reason, r.node_id) for r in replies.refusals] == [
        ("two", "reply cannot be read (JSONDecodeError)", 3)
    ]
    assert replies.upload.values_bytes > 0


def test_a_round_waits_for_as_many_as_its_rule_needs(trainers, clock):
    """Fewer would end the job, and some may be away for a moment only."""
    grid = Network(trainers)
    grid.away = {4}
    with pytest.raises(RoundError, match="2 of 3 clients connected"):
        clients_of(grid, clock, least_clients=3).train(START, round_number=1)


def test_messages_live_as_long_as_their_answer_is_waited_for(trainers, clock):
    """A node that comes back later finds no stale work."""
    grid = Network(trainers)
    clients_of(grid, clock).train(START, round_number=1)
    assert {message.metadata.ttl for message in grid.sent} == {30}


def test_a_client_that_is_away_is_refused_without_waiting(trainers, clock):
    """It gets no message, and the round has its name and the reason."""
    grid = Network(trainers)
    grid.away = {4}
    replies = clients_of(grid, clock).train(START, round_number=1)
    assert [(r.client, r.reason) for r in replies.refusals] == [("three", "is not connected")]
    assert len(grid.sent) == 2


def test_what_the_round_refuses_is_told_to_its_client(trainers, clock):
    """NaN is refused by the round's checks, and the reason goes with the node's next message."""
    trainers["two"].value = math.nan
    grid = Network(trainers)
    clients = clients_of(grid, clock)
    state = FederationState(0, START, ())
    _, record = run_round(state, clients, clock=clock)
    assert record.refused == {"two": "a holds NaN or infinity"}
    clients.evaluate(START)
    told = {m.metadata.dst_node_id: m.content["config"].get(REFUSED_KEY) for m in grid.sent[3:]}
    assert told == {2: None, 3: "a holds NaN or infinity", 4: None}


def test_a_client_speaks_for_itself_alone(trainers, clock):
    """Who calls himself by another client's name is refused under the name of his key."""
    grid = Network(trainers, calls={"one": "one", "two": "one", "three": "three"})
    clients = clients_of(grid, clock)
    replies = clients.train(START, round_number=1)
    assert [update.client for update in replies.updates] == ["one", "three"]
    assert [(r.client, r.reason) for r in replies.refusals] == [
        ("two", "calls itself 'one', its key is 'two''s")
    ]
    assert [e.client for e in clients.evaluate(START).evaluations] == ["one", "three"]


def test_without_keys_a_client_must_be_one_of_the_job(trainers, clock):
    """Any node may take part, under a name the job has."""
    grid = Network(trainers, calls={"one": "one", "two": "two", "three": "nobody"})
    replies = clients_of(grid, clock, names=None).train(START, round_number=1)
    assert [update.client for update in replies.updates] == ["one", "two"]
    assert "no client of the job" in replies.refusals[0].reason


def test_a_judgement_that_is_missing_or_no_number_is_left_out(trainers, clock, caplog):
    """The rest is enough; with none at all the job ends in one line."""
    trainers["one"].loss = math.nan
    grid = Network(trainers)
    grid.silent = {3}
    clients = clients_of(grid, clock)
    assert [e.client for e in clients.evaluate(START).evaluations] == ["three"]
    assert [r.levelname for r in caplog.records if "judgement missing" in r.message] == [
        "WARNING",
        "WARNING",
    ]
    grid.silent = {3, 4}
    with pytest.raises(RoundError, match="no client could judge the adapter"):
        clients.evaluate(START)


def test_waiting_for_clients_ends(trainers, clock):
    """Those that are missing are told as a count; what ends the server ends the wait."""
    grid = Network(trainers)
    grid.away = {2, 3}
    with pytest.raises(RoundError, match="1 of 3 clients connected within 10 s"):
        clients_of(grid, clock).wait_for(3)

    def ended():
        raise BaseModelError("the end")

    with pytest.raises(BaseModelError, match="the end"):
        clients_of(grid, clock, check=ended).wait_for(3)


def test_another_base_model_is_refused_by_the_client(trainers, clock):
    """The client's check names both digests."""
    grid = Network(trainers)
    clients_of(grid, clock).train(START, round_number=1)
    checks(BASE)(grid.sent[0], None)
    with pytest.raises(BaseModelError, match=r"are 666666666666\.\.\., the server's are 5555"):
        checks("6" * 64)(grid.sent[0], None)


def test_a_resumed_server_tells_its_clients_by_name(trainers, clock):
    """Their nodes have other numbers in the new SuperLink; who was not there is told nothing."""
    grid = Network(trainers)
    clients = clients_of(grid, clock)
    clients.tell(
        [
            Refusal("two", "sent too much", 10, node_id=77),
            Refusal("three", "is not connected", 0),
        ]
    )
    clients.train(START, round_number=5)
    told = {m.metadata.dst_node_id: m.content["config"].get(REFUSED_KEY) for m in grid.sent}
    assert told == {2: None, 3: "sent too much", 4: None}


def test_every_connected_client_is_told_that_the_job_is_done(trainers, clock, caplog):
    """Its app notes it and answers; one that is silent costs a moment and a line of the log."""
    grid = Network(trainers)
    ending = Ending(grid._client_app)
    clients = clients_of(grid, clock)
    clients.end()
    assert ending.has_come
    assert "may not know" not in caplog.text
    grid.silent = {3}
    clients.end()
    assert clock.now < 120
    assert "may not know that the job is done client=two" in caplog.text


class SparseNetwork(Network):
    """The same with clients that keep their state in a folder, and a server's end."""

    def __init__(self, trainers, folder, *, numbers=NAMES):
        super().__init__(trainers)
        self.end = ServerEnd(START, SPARSE)
        kept = KeptClients(
            Layout.of(START),
            SPARSE,
            StateFolder(folder),
            first=first_copy(Layout.of(START), START, SPARSE),
            seeded=EVERYTHING_CROSSES,
        )
        app = make_client_app(trainers.__getitem__, sparse=kept)
        InProcessGrid.__init__(self, app, {n: {"client": name} for n, name in numbers.items()})


def test_a_reply_that_calls_itself_a_download_ends_no_round(clock):
    """Under a shared mask an upload has fewer entries; what the sender says of it decides nothing."""
    lora = "base_model.model.m.lora_{}.weight"
    start = {lora.format("A"): np.ones((2, 3), "f4"), lora.format("B"): np.zeros((3, 2), "f4")}
    shared = SPARSE.model_copy(update={"mask": "shared", "download": "weights"})
    end, trainers = ServerEnd(start, shared), {name: FakeTrainer() for name in NAMES.values()}
    app = make_client_app(trainers.__getitem__, sparse=SparseClients(Layout.of(start), shared))

    def lying(message, context):
        reply = app(message, context)
        if context.node_config["client"] == "two":
            reply.content["config"]["round"] = 1
        return reply

    grid = InProcessGrid(lying, {node: {"client": name} for node, name in NAMES.items()})
    clients = clients_of(grid, clock, exchange=SparseExchange(end.server))
    replies = clients.train(start, round_number=1)
    assert len(replies.updates) + len(replies.refusals) == 3
    assert replies.upload.values_bytes > 0


def sparse_clients_of(grid, clock, names=NAMES):
    """Return the clients of a grid in a sparse job."""
    return clients_of(grid, clock, names=names, exchange=SparseExchange(grid.end.server))


def test_a_sparse_job_goes_on_where_nodes_have_other_numbers(trainers, clock, tmp_path):
    """A new SuperLink numbers its nodes anew: each client is still sent a change of its own copy."""
    grid = SparseNetwork(trainers, tmp_path)
    replies = sparse_clients_of(grid, clock).train(START, round_number=1)
    assert [update.client for update in replies.updates] == ["one", "two", "three"]
    assert replies.download.num_whole == 0
    memory = grid.end.memory
    renumbered = {41: "three", 42: "one", 43: "two"}
    later = SparseNetwork(trainers, tmp_path, numbers=renumbered)
    later.end.restore(memory)
    clients = sparse_clients_of(later, clock, names=renumbered)
    replies = clients.train(START, round_number=2)
    assert [update.client for update in replies.updates] == ["one", "two", "three"]
    assert (replies.download.num_whole, list(replies.refusals)) == (0, [])


def test_an_upload_that_came_too_late_is_rolled_back(trainers, clock, tmp_path, caplog):
    """Its client is sent the whole adapter next, and begins with the residual before it."""
    grid = SparseNetwork(trainers, tmp_path)
    clients = sparse_clients_of(grid, clock)
    clients.train(START, round_number=1)
    before = settled(StateFolder(tmp_path).load("two"), grid.end.server.state.receipts[1])
    grid.silent = {3}
    replies = clients.train(START, round_number=2)
    assert [refusal.client for refusal in replies.refusals] == ["two"]
    grid.silent = set()
    replies = clients.train(START, round_number=3)
    assert replies.download.num_whole == 1
    assert [r.message for r in caplog.records if "rolled back" in r.message]
    after = StateFolder(tmp_path).load("two")
    assert after.receipt == before.receipt
    np.testing.assert_array_equal(after.state.residual.vector, before.state.residual.vector)
