"""Flower's messages through the in-process grid."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from finetune import in_process_grid
from finetune.errors import FinetuneError, FlowerError, RoundError
from finetune.flower import GridClients, make_client_app, make_server_app
from finetune.flower_records import decode, encode
from finetune.in_process_grid import InProcessGrid, check_flower
from finetune.trust.identity import BaseIdentity
from finetune.updates import Refusal

START = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((3, 2), np.float32)}


class FakeTrainer:
    """Adds a number to every tensor."""

    def __init__(self, number, *, fails=False):
        self.num_examples = 10 * number
        self.number, self.fails = number, fails

    def train(self, tensors, *, round_number):
        if self.fails:
            raise FinetuneError("the disk is full; clear it")
        return {name: tensor + self.number for name, tensor in tensors.items()}, float(round_number)

    def evaluate(self, tensors):
        if self.fails:
            raise FinetuneError("the disk is full; clear it")
        return float(tensors["a"].sum()), self.number


def grid_of(**trainers):
    """Return a grid with one node for each named trainer."""
    nodes = {number: {"client": name} for number, name in enumerate(trainers, start=2)}
    return InProcessGrid(make_client_app(trainers.__getitem__), nodes)


def test_a_round_through_server_app_and_client_app():
    """Tensors reach every client and come back with name, weight, loss and bytes."""
    seen = []

    def serve(clients):
        seen.append(clients.train(START, round_number=4))
        seen.append(clients.evaluate(START))

    grid = grid_of(one=FakeTrainer(1), two=FakeTrainer(2))
    make_server_app(serve)(grid, grid.server_context())
    replies, evaluations = seen
    assert [(u.client, u.num_examples, u.loss) for u in replies.updates] == [
        ("one", 10, 4.0),
        ("two", 20, 4.0),
    ]
    for update, number in zip(replies.updates, (1, 2), strict=True):
        for name, tensor in START.items():
            np.testing.assert_array_equal(update.tensors[name], tensor + number)
            assert update.tensors[name].dtype == np.float32
    assert [(e.client, e.loss, e.num_tokens) for e in evaluations.evaluations] == [
        ("one", 15.0, 1),
        ("two", 15.0, 2),
    ]


def test_bytes_cover_the_arrays_and_little_else():
    """Serialised lengths are those of the arrays plus headers, both ways."""
    big = {"a": np.random.default_rng(1).normal(size=(100, 100)).astype(np.float32)}
    replies = GridClients(grid_of(one=FakeTrainer(1))).train(big, round_number=1)
    for length in (replies.download_bytes, replies.updates[0].sent_bytes):
        assert 40_000 < length < 42_000


def npy(header: str) -> bytes:
    """Return bytes in numpy's format with that header and no values."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,)}"
PICKLED = "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 no archive",
        npy(HUGE),
        npy(PICKLED) + b"12345678",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
        npy("(" * 300),
        npy("'open"),
        npy("{}"),
        npy(HUGE.replace("9999999999999", "2")) + b"1234",
    ],
)
def test_bytes_that_are_no_array_are_refused_before_memory_is_taken(data):
    """An archive, a pickle, a header that lies about the length: each is a ValueError."""
    with pytest.raises(ValueError, match=r"(?i)array|magic|header|EOF"):
        decode(ArrayRecord({"a": Array("float32", (2,), "numpy.ndarray", data)}))


def test_arrays_of_any_order_and_type_survive_the_way():
    """Fortran order, a scalar and an empty array come back as they were."""
    tensors = {"f": np.asfortranarray(START["a"]), "s": np.float32(3), "e": np.zeros((0, 2), "<f4")}
    back = decode(encode(tensors))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_a_failing_client_is_refused_not_fatal():
    """A client's own failure comes back as a refusal with its reason."""
    clients = GridClients(grid_of(good=FakeTrainer(1), bad=FakeTrainer(2, fails=True)))
    replies = clients.train(START, round_number=1)
    assert [update.client for update in replies.updates] == ["good"]
    assert [r.reason for r in replies.refusals] == ["failed: the disk is full; clear it"]
    with pytest.raises(RoundError, match="node 3 could not judge the adapter"):
        clients.evaluate(START)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"config": ConfigRecord({"client": "c"}), "metrics": MetricRecord({"loss": 1.0})},
        {
            "config": ConfigRecord({"client": "c"}),
            "metrics": MetricRecord({"loss": 1.0, "num-examples": 3}),
            "arrays": ArrayRecord({"a": Array("float32", (2, 3), "numpy.ndarray", b"no array")}),
        },
        {
            "config": ConfigRecord({"client": "c"}),
            "metrics": MetricRecord({"loss": 1.0, "num-examples": float("inf")}),
            "arrays": ArrayRecord(),
        },
        {
            "config": ConfigRecord({"client": "c", "weights": 1, "tokenizer": 2, "template": 3}),
            "metrics": MetricRecord({"loss": 1.0, "num-examples": 3}),
            "arrays": ArrayRecord(),
        },
    ],
)
def test_a_reply_that_cannot_be_decoded_is_refused(content):
    """Missing records and bytes that are no array count as refusals."""
    app = ClientApp()
    app.train()(lambda message, context: Message(RecordDict(content), reply_to=message))
    replies = GridClients(InProcessGrid(app, {2: {}})).train(START, round_number=1)
    assert not replies.updates
    assert "cannot be decoded" in replies.refusals[0].reason


def test_a_refused_client_learns_the_reason_once(caplog):
    """The reason travels in the next message that the client answers, and to no other client."""
    clients = GridClients(grid_of(one=FakeTrainer(1), two=FakeTrainer(2)))
    clients.tell([Refusal("two", "a holds NaN or infinity", 7, node_id=3)])
    for _ in range(2):
        clients.evaluate(START)
    assert [record.getMessage() for record in caplog.records] == [
        "server refused the last reply client=two reason='a holds NaN or infinity'"
    ]


def test_a_reason_waits_until_the_client_answers(caplog):
    """A message that was not answered may not have come; the next one says it again."""
    trainer = FakeTrainer(1, fails=True)
    clients = GridClients(grid_of(one=trainer))
    clients.tell([Refusal("one", "too long", 7, node_id=2)])
    clients.train(START, round_number=1)
    trainer.fails = False
    caplog.clear()
    clients.train(START, round_number=2)
    assert "reason='too long'" in caplog.text


def test_a_reply_declares_base_model_and_version():
    """What each client loaded and which adapter it started from come back with its update."""
    identities = {name: BaseIdentity(name.encode(), b"t", b"") for name in ("one", "two")}
    trainers = {"one": FakeTrainer(1), "two": FakeTrainer(2)}
    app = make_client_app(trainers.__getitem__, identity_of=identities.__getitem__)
    grid = InProcessGrid(app, {2: {"client": "one"}, 3: {"client": "two"}})
    updates = GridClients(grid).train(START, round_number=4).updates
    assert [(u.identity, u.version, u.node_id) for u in updates] == [
        (identities["one"], 4, 2),
        (identities["two"], 4, 3),
    ]


def test_replies_are_pulled_once():
    """A reply waits until it is pulled, then is forgotten; unknown ids give nothing."""
    grid = grid_of(one=FakeTrainer(1))
    content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"round": 1})})
    (message_id,) = grid.push_messages([grid.create_message(content, "train", 2, "1")])
    (reply,) = grid.pull_messages([message_id, "unknown"])
    assert reply.metadata.reply_to_message_id == message_id
    assert reply.metadata.src_node_id == 2
    assert grid.pull_messages([message_id]) == []


@pytest.mark.parametrize("installed", ["1.40.2", "2.0.0"])
def test_another_flower_is_refused(monkeypatch, installed):
    """The grid sets private fields, so it names the versions it was written for."""
    monkeypatch.setattr(in_process_grid, "version", lambda name: installed)
    with pytest.raises(FlowerError, match=f"flwr {installed} is installed; install"):
        check_flower()
