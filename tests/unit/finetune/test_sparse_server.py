"""What the server sends, remembers of its clients, and makes of their replies."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.aggregation import FEDAVG
from finetune.errors import PayloadError
from finetune.factors import Adapter, Scaling, paired, unpaired
from finetune.low_rank import best_rank, decompose
from finetune.sparsity.client import SparseClients
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.ends import SparseEnds
from finetune.sparsity.layout import Layout
from finetune.sparsity.memory import SparseMemory, from_parts, to_parts
from finetune.sparsity.parcel import Parcel
from finetune.sparsity.rebasing import carried_residual
from finetune.sparsity.server import SparseServer
from finetune.updates import Update
from finetune.wire.message import encode
from finetune.wire.values import VALUE_TYPES

A, B = "layer.lora_A.weight", "layer.lora_B.weight"
NODES = {2: "x", 3: "y", 4: "z"}


def mean_of(updates):
    """Return the mean of clients of one rank and alpha."""
    return FEDAVG.combine(updates, like=updates[0].tensors, round_number=1)[0]


def adapter(seed=0, *, untrained=False, rank=2):
    """Return an adapter of 30 entries at rank 2; an untrained one has a B of zeros."""
    generator = np.random.default_rng(seed)
    b = np.zeros((7, rank)) if untrained else generator.normal(size=(7, rank))
    return {A: generator.normal(size=(rank, 8)).astype(np.float32), B: b.astype(np.float32)}


def config(**changes):
    """Return a sparse configuration, 1/2 down and 1/4 up, with some keys changed."""
    return SparsityConfig.model_validate(
        {"download_density": 0.5, "upload_density": 0.25} | changes
    )


class Job:
    """A server and three clients that train by adding noise of their own."""

    def __init__(self, settings, memory=None, *, tensors=None):
        memory = memory or SparseMemory()
        self.tensors = tensors or adapter()
        layout = Layout.of(self.tensors)
        self.server = SparseServer(layout, settings, memory.server)
        self.clients = SparseClients(layout, settings, memory.clients)
        self.starts = {}

    def round(self, number, *, nodes=NODES, lost=()):
        """Run one round; the replies of `lost` nodes never come."""
        parcels = self.server.send(self.tensors, nodes, round_number=number)
        updates = []
        for node, parcel in parcels.items():
            name = NODES[node]
            upload, _ = self.clients.answer(
                name, parcel, lambda t, n=name: self.train(t, n, number)
            )
            if node not in lost:
                updates.append(Update(name, self.server.receive(node, upload), node, 1.0, 0))
        self.server.end_round()
        before, self.tensors = self.tensors, mean_of(updates)
        self.changes = [difference(update.tensors, before) for update in updates]
        return parcels

    def train(self, tensors, name, number):
        self.starts[name] = tensors
        generator = np.random.default_rng([number, *name.encode()])
        noise = {key: generator.normal(size=tensor.shape) for key, tensor in tensors.items()}
        return {k: (t + 0.1 * noise[k]).astype(np.float32) for k, t in tensors.items()}, 1.0

    @property
    def memory(self):
        return SparseMemory(self.server.state, dict(self.clients.states))


def difference(tensors, other):
    """Return the difference of two adapters."""
    return {name: tensor - other[name] for name, tensor in tensors.items()}


def flat(tensors):
    """Return an adapter as one vector."""
    return Layout.of(tensors).flat(tensors)


def test_clients_start_from_the_largest_weights_over_all_tensors():
    """The download's mask is global: 15 of 30 entries by magnitude, the others zero."""
    job = Job(config())
    expected = flat(job.tensors)
    expected[np.argsort(-np.abs(expected), kind="stable")[15:]] = 0
    job.round(1)
    np.testing.assert_array_equal(flat(job.starts["x"]), expected)


def test_the_server_adds_the_mean_change_to_its_dense_adapter():
    """Entries that nobody changed stay as they were, masked in the download or not."""
    job = Job(config())
    before = flat(job.tensors)
    job.round(1)
    assert [np.count_nonzero(flat(change)) for change in job.changes] == [7, 7, 7]
    untouched = np.all([flat(change) == 0 for change in job.changes], axis=0)
    assert 0 < untouched.sum() < 30
    np.testing.assert_array_equal(flat(job.tensors)[untouched], before[untouched])
    mean = sum(
        node * flat(c).astype(np.float64) for node, c in zip(NODES, job.changes, strict=True)
    )
    mean /= 9
    np.testing.assert_allclose(flat(job.tensors), before + mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("download", ["weights", "change"])
def test_the_first_round_with_b_zero_works(download):
    """An untrained adapter: only entries of A are sent, and B is trained all the same."""
    job = Job(config(download=download, download_density=0.8), tensors=adapter(untrained=True))
    parcels = job.round(1)
    np.testing.assert_array_equal(job.starts["x"][A], adapter(untrained=True)[A])
    assert not job.starts["x"][B].any()
    assert job.server.content_of(parcels[2]).values_bytes == 4 * 16
    assert job.tensors[B].any()


@pytest.mark.parametrize("download", ["weights", "change"])
@pytest.mark.parametrize("feedback", [None, {}])
def test_density_one_is_the_dense_average_bit_for_bit(download, feedback):
    """Three rounds at density 1 in float32 equal the same rounds without any of this."""
    settings = config(
        download=download, download_density=1, upload_density=1, error_feedback=feedback
    )
    job, dense = Job(settings), adapter()
    for number in (1, 2, 3):
        job.round(number)
        trained = {name: job.train(dense, name, number)[0] for name in NODES.values()}
        dense = mean_of([Update(name, trained[name], node, 1.0, 0) for node, name in NODES.items()])
        for name, tensor in dense.items():
            assert job.tensors[name].tobytes() == tensor.tobytes()


def test_a_change_is_sent_only_to_who_holds_the_base():
    """Round 1 whole; then half of the entries; a client whose reply was lost is sent all again."""
    job = Job(config(download="change"))
    assert all(parcel.is_whole for parcel in job.round(1).values())
    second = job.round(2, lost={3})
    assert not any(parcel.is_whole for parcel in second.values())
    assert len({parcel.data for parcel in second.values()}) == 1
    adapter_sent = flat(job.tensors)
    third = job.round(3)
    assert [third[node].is_whole for node in NODES] == [False, True, False]
    np.testing.assert_array_equal(flat(job.starts["y"]), adapter_sent)
    assert 0 < job.server.content_of(third[2]).values_bytes <= 4 * 15
    assert job.server.content_of(third[3]).values_bytes == 4 * 30


def test_the_first_adapter_need_not_be_sent():
    """Both ends made it: round 1 sends no entry, and later newcomers are sent the whole adapter."""
    settings, first = config(download="change"), adapter()
    ends = SparseEnds(first, settings)
    job = Job(settings, ends.memory, tensors=first)
    job.clients = ends.clients
    parcels = job.round(1, nodes=[2, 3])
    assert job.server.content_of(parcels[2]).values_bytes == 0
    assert flat(job.starts["x"]).tobytes() == flat(first).tobytes()
    assert [parcel.is_whole for parcel in job.round(2).values()] == [False, False, True]


def test_a_first_adapter_that_differs_is_noticed():
    """A client whose seed gave something else refuses; the next message brings it all."""
    settings = config(download="change")
    server = SparseEnds(adapter(0), settings).server
    client = SparseEnds(adapter(1), settings).clients
    (parcel,) = server.send(adapter(0), [2], round_number=1).values()
    with pytest.raises(PayloadError, match="changes adapter 0, this client holds another 0"):
        client.answer("x", parcel, lambda tensors: (tensors, 1.0))
    server.end_round()
    (parcel,) = server.send(adapter(0), [2], round_number=2).values()
    client.answer("x", parcel, lambda tensors: (tensors, 1.0))
    assert parcel.is_whole


def test_what_a_change_left_out_is_sent_later():
    """With the adapter at rest, changes bring the clients' copies to it: the residual drains."""
    job = Job(config(download="change", download_density=0.2))
    job.round(1)
    for number in range(2, 7):
        parcels = job.server.send(adapter(1), NODES, round_number=number)
        for node, parcel in parcels.items():
            upload, _ = job.clients.answer(NODES[node], parcel, lambda tensors: (tensors, 1.0))
            job.server.receive(node, upload)
        job.server.end_round()
    np.testing.assert_allclose(job.clients.states["x"].copy.vector, flat(adapter(1)), atol=1e-6)


def test_an_absent_client_gets_the_change_since_its_own_copy():
    """Its base is older than the others'; both are remembered, and both ends agree on them."""
    job = Job(config(download="change"))
    job.round(1)
    job.round(2, nodes=[2, 3])
    parcels = job.round(3)
    assert not any(parcel.is_whole for parcel in parcels.values())
    assert parcels[4].facts["base"] != parcels[2].facts["base"]
    for node, name in NODES.items():
        held = job.clients.states[name].copy
        assert job.server.state.held[node] == held.number
        np.testing.assert_array_equal(job.server.state.copies[held.number], held.vector)


ROUNDS = st.lists(
    st.tuples(st.sets(st.sampled_from(list(NODES)), min_size=1), st.sets(st.sampled_from([3, 4]))),
    min_size=1,
    max_size=6,
)


@given(ROUNDS, st.integers(1, 3), st.sampled_from(VALUE_TYPES))
def test_both_ends_agree_on_every_copy(rounds, kept_copies, value_type):
    """Whoever takes part, whatever is lost: what the server believes a node holds, it holds."""
    settings = config(download="change", kept_copies=kept_copies, download_values=value_type)
    job = Job(settings)
    for number, (nodes, lost) in enumerate(rounds, start=1):
        if not nodes - lost:
            continue  # a round without an update ends a job
        job.round(number, nodes=sorted(nodes), lost=lost)
        held = job.server.state.held
        assert not set(held) & nodes & lost
        assert set(job.server.state.copies) == set(held.values())
        assert len(job.server.state.copies) <= kept_copies
        for node, copy_number in held.items():
            copy = job.clients.states[NODES[node]].copy
            assert copy.number == copy_number
            np.testing.assert_array_equal(copy.vector, job.server.state.copies[copy_number])


def test_only_the_newest_copies_are_kept(caplog):
    """With room for one copy, who was absent is sent the whole adapter, and the log says so."""
    caplog.set_level(logging.INFO)
    job = Job(config(download="change", kept_copies=1))
    job.round(1)
    job.round(2, nodes=[2, 3])
    assert len(job.server.state.copies) == 1
    assert "adapter goes whole to nodes=[4]" in caplog.text
    parcels = job.round(3)
    assert [parcels[node].is_whole for node in NODES] == [False, False, True]


def test_a_client_that_lost_its_copy_is_refused_once_and_then_sent_all():
    """It cannot apply a change; the server hears that and sends the whole adapter next time."""
    job = Job(config(download="change"))
    job.round(1)
    del job.clients.states["z"]
    parcels = job.server.send(job.tensors, NODES, round_number=2)
    with pytest.raises(PayloadError, match="this client holds none"):
        job.clients.answer("z", parcels[4], lambda tensors: (tensors, 1.0))
    job.server.end_round()
    assert all(parcel.is_whole for parcel in job.round(3).values())


@pytest.mark.parametrize("download", ["weights", "change"])
def test_after_a_squeeze_nothing_old_is_used(download):
    """Copies are forgotten, all goes whole once; residuals are carried or, without a copy, dropped."""
    job = Job(config(download=download, error_feedback={}), tensors=adapter(rank=4))
    job.round(1)
    before = job.clients.states["x"]
    tensors = paired(job.tensors, Scaling(4, 4))
    job.tensors = unpaired(
        Adapter(
            {name: best_rank(decompose(f), 2, scale=1.0) for name, f in tensors.modules.items()}, {}
        )
    )
    parcels = job.round(2)
    assert all(parcel.is_whole and parcel.fact("rank") == 2 for parcel in parcels.values())
    start = job.starts["x"]
    change = flat(difference(job.train(start, "x", 2)[0], start))
    leftover = np.zeros(30)
    if download == "change":
        layout = Layout.of(adapter(rank=4))
        carried = carried_residual(
            before.residual, before.copy.vector, flat(start), layout, basis=1
        )
        leftover = carried.vector
        assert leftover.any()
    residual = job.clients.states["x"].residual
    assert (residual.round_number, residual.basis) == (2, int(download == "change"))
    sent = flat(job.changes[0])
    np.testing.assert_allclose(residual.vector, change + leftover - sent, atol=1e-5)
    assert not any(parcel.is_whole for parcel in job.round(3).values()) or download == "weights"


def test_a_rank_that_the_job_does_not_have_is_refused():
    """A download cannot make the client's end allocate more than the job's adapter."""
    job = Job(config())
    parcel = job.server.send(job.tensors, [2], round_number=1)[2]
    grown = Parcel(parcel.data, {**parcel.facts, "rank": 9})
    with pytest.raises(PayloadError, match="is of rank 9, above the job's"):
        job.clients.answer("x", grown, lambda tensors: (tensors, 1.0))


@pytest.mark.parametrize("download", ["weights", "change"])
@pytest.mark.parametrize("feedback", [None, {"decay_per_missed_round": 0.5}])
def test_a_restored_memory_goes_on_alike(download, feedback):
    """Taken apart, put together and run on, both ends do what they would have done."""
    settings = config(download=download, error_feedback=feedback)
    unbroken, broken = Job(settings), Job(settings)
    for number in (1, 2, 3, 4):
        nodes = [2, 4] if number == 2 else list(NODES)
        unbroken.round(number, nodes=nodes, lost={4} if number == 3 else ())
        header, arrays = to_parts(broken.memory)
        header = type(header).model_validate_json(header.model_dump_json())
        broken = Job(settings, from_parts(header, arrays), tensors=broken.tensors)
        broken.round(number, nodes=nodes, lost={4} if number == 3 else ())
        assert flat(broken.tensors).tobytes() == flat(unbroken.tensors).tobytes()
    header, arrays = to_parts(broken.memory)
    expected_header, expected = to_parts(unbroken.memory)
    assert header == expected_header
    assert {n: a.tobytes() for n, a in arrays.items()} == {
        n: a.tobytes() for n, a in expected.items()
    }


@pytest.mark.parametrize(
    ("upload", "says"),
    [
        (Parcel(b"short", {"is_whole": 0}), "shorter than its header"),
        (Parcel(encode(np.ones(31, np.float32)), {"is_whole": 0}), "the adapter has 30"),
        (Parcel(encode(np.ones(30, np.float32)), {}), "comes without 'is_whole'"),
    ],
)
def test_a_malformed_reply_is_refused_and_its_node_forgotten(upload, says):
    """The server's memory of that node ends: it is sent the whole adapter next."""
    job = Job(config(download="change"))
    job.round(1)
    job.server.send(job.tensors, NODES, round_number=2)
    with pytest.raises(PayloadError, match=says):
        job.server.receive(3, upload)
    job.server.end_round()
    assert 3 not in job.server.state.held


def test_a_stranger_is_refused():
    """A reply from a node that was sent nothing."""
    job = Job(config())
    job.server.send(job.tensors, [2], round_number=1)
    with pytest.raises(PayloadError, match="comes from node 9, which was sent nothing"):
        job.server.receive(9, Parcel(encode(np.ones(30, np.float32)), {"is_whole": 1}))
