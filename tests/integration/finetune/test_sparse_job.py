"""Whole sparse jobs in process: result, bytes, resume after a stop at each point of a round."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file
from watched_job import Watcher, metrics

from finetune.adapters import read_adapter
from finetune.errors import RoundError
from finetune.flower import GridClients, make_client_app
from finetune.flower_records import serialised_bytes
from finetune.flower_sparse import SparseExchange, read_parcel
from finetune.in_process_grid import InProcessGrid
from finetune.job import run_job
from finetune.run_folder import RunFolder
from finetune.sparsity.client import SparseClients
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.layout import Layout
from finetune.sparsity.server import SparseServer
from finetune.wire.message import sizes_of

FLASC = {"download_density": 0.5, "upload_density": 0.25}
CHANGES = {
    "download_density": 0.3,
    "upload_density": 0.125,
    "upload_decay": 0.5,
    "download": "change",
    "download_values": "bfloat16",
    "upload_values": "int8",
    "error_feedback": {"decay_per_missed_round": 0.9},
}
START = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((3, 2), np.float32)}


def result(folder):
    """Return everything that a run leaves and that must not depend on interruptions."""
    adapter = {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}
    arrays = load_file(folder / "checkpoint.safetensors")
    return adapter, metrics(folder), {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("name", ["FLASC", "CHANGES", "SENT"])
def test_a_sparse_job_learns_and_accounts_for_its_bytes(make_job, tmp_path, name):
    """Losses fall; values, positions and headers sum to what was measured, both ways."""
    sparsity = {"FLASC": FLASC, "CHANGES": CHANGES}.get(name)
    sparsity = sparsity or CHANGES | {"is_first_adapter_sent": True}
    manifest = run_job(make_job(sparsity=sparsity), folder=tmp_path / "run", observer=Watcher())
    assert all(client.adapter_loss < client.base_loss for client in manifest.clients)
    lines = metrics(tmp_path / "run")
    whole = {"FLASC": [3, 3, 3], "CHANGES": [0, 0, 0], "SENT": [3, 0, 0]}[name]
    assert [line["download"]["num_whole"] for line in lines] == whole
    for line in lines:
        for direction in ("download", "upload"):
            split = line[direction]
            parts = [split[f"{part}_bytes"] for part in ("values", "index", "header")]
            assert sum(parts) == line[f"{direction}_bytes"]
            nothing_sent = name == "CHANGES" and direction == "download" and line["round"] == 1
            assert parts == [0, 0, sum(parts)] if nothing_sent else min(parts) > 0
            assert sum(split["encodings"].values()) == 3


@pytest.mark.parametrize("download", ["weights", "change"])
def test_density_one_is_the_dense_job_bit_for_bit(make_job, tmp_path, download):
    """The same adapter and losses; only the bytes differ."""
    whole = {"download_density": 1, "upload_density": 1, "download": download}
    run_job(make_job(), folder=tmp_path / "dense", observer=Watcher())
    run_job(make_job(sparsity=whole), folder=tmp_path / "sparse", observer=Watcher())
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "sparse" / name).read_bytes() == (tmp_path / "dense" / name).read_bytes()
    manifests = [read_adapter(tmp_path / run / "adapter") for run in ("dense", "sparse")]
    assert manifests[0].clients == manifests[1].clients
    losses = [[line["loss"] for line in metrics(tmp_path / run)] for run in ("dense", "sparse")]
    assert losses[0] == losses[1]


def test_a_dense_jobs_bytes_are_split_too(make_job, tmp_path):
    """The largest part is values; there are no positions; equal tensors travel once."""
    run_job(make_job(), folder=tmp_path / "run", observer=Watcher())
    arrays = load_file(tmp_path / "run" / "checkpoint.safetensors")
    whole = sum(array.nbytes for array in arrays.values())
    for line in metrics(tmp_path / "run"):
        assert line["upload"]["values_bytes"] == 3 * whole
        assert line["upload"]["index_bytes"] == 0
        assert line["upload"]["encodings"] == {"tensors": 3}
        assert line["upload"]["header_bytes"] > 0
    assert metrics(tmp_path / "run")[0]["download"]["values_bytes"] < 3 * whole


def stop_in_save(monkeypatch, *, method, call, is_after):
    """Interrupt the job before or after the given call of one of the run folder's writes."""
    real, calls = getattr(RunFolder, method), []

    def stopping(self, *words, **keys):
        calls.append(1)
        if len(calls) == call and not is_after:
            raise KeyboardInterrupt
        real(self, *words, **keys)
        if len(calls) == call and is_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, method, stopping)


def stopped_and_resumed(monkeypatch, job, folder, *, stop=None, after_steps=None):
    """Return the result of a run that was stopped once and run again."""
    with monkeypatch.context() as patch:
        if stop is not None:
            stop_in_save(patch, **stop)
        with pytest.raises(KeyboardInterrupt):
            run_job(job, folder=folder, observer=Watcher(after_steps))
    run_job(job, folder=folder, observer=Watcher())
    return result(folder)


WRITES = [
    {"method": method, "call": call, "is_after": is_after}
    for method, call, is_after in (
        ("save", 1, False),
        ("save", 1, True),
        ("append_metrics", 2, False),
        ("append_metrics", 2, True),
        ("save", 3, True),
        ("save", 4, True),
    )
]
"""Points of the writes: around the first checkpoint, of round 2, after that of the last round."""


@pytest.mark.parametrize("sparsity", [FLASC | {"error_feedback": {}}, CHANGES])
def test_a_stop_at_any_point_changes_nothing(make_job, tmp_path, monkeypatch, sparsity):
    """Between any two steps, clients or writes: adapter, metrics and checkpoint bit for bit."""
    job = make_job(sparsity=sparsity)
    run_job(job, folder=tmp_path / "unbroken", observer=Watcher())
    unbroken = result(tmp_path / "unbroken")
    for steps in (1, 7, 8, 9, 11, 18):
        folder = tmp_path / f"steps-{steps}"
        assert stopped_and_resumed(monkeypatch, job, folder, after_steps=steps) == unbroken, steps
    for number, stop in enumerate(WRITES):
        folder = tmp_path / f"write-{number}"
        assert stopped_and_resumed(monkeypatch, job, folder, stop=stop) == unbroken, stop


@pytest.mark.parametrize(
    ("sparsity", "parts"),
    [
        (CHANGES, {"aggregation": "best-rank", "rank": 4, "final_rank": 2}),
        (FLASC | {"error_feedback": {}, "mask": "shared"}, {"aggregation": "ffa"}),
    ],
)
def test_a_stop_changes_nothing_where_parts_are_combined(
    make_job, tmp_path, monkeypatch, sparsity, parts
):
    """Before and after a squeeze with turned bases; under a shared mask of B. Losses fall."""
    job = make_job(sparsity=sparsity, **parts)
    manifest = run_job(job, folder=tmp_path / "unbroken", observer=Watcher())
    assert all(client.adapter_loss < client.base_loss for client in manifest.clients)
    unbroken = result(tmp_path / "unbroken")
    for stop in ({"after_steps": 9}, {"stop": WRITES[3]}, {"stop": WRITES[4]}):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        assert stopped_and_resumed(monkeypatch, job, folder, **stop) == unbroken, stop


def test_a_learning_rate_that_gives_nan_ends_the_job_with_advice(make_job, tmp_path):
    """The clients' own ends refuse to send it."""
    job = make_job(sparsity=FLASC, learning_rate=1e30)
    with pytest.raises(RoundError, match="lower learning_rate"):
        run_job(job, folder=tmp_path / "run", observer=Watcher())


class FakeTrainer:
    """Adds a number to every entry."""

    num_examples = 3

    def __init__(self, number):
        self.number = number

    def train(self, tensors, *, round_number):
        return {name: tensor + self.number for name, tensor in tensors.items()}, 1.0


def sparse_clients(app=None):
    """Return two fake clients behind a grid, and what the server's end is."""
    settings = SparsityConfig(download_density=0.5, upload_density=0.5)
    layout = Layout.of(START)
    trainers = {"one": FakeTrainer(1), "two": FakeTrainer(2)}
    app = app or make_client_app(trainers.__getitem__, sparse=SparseClients(layout, settings))
    grid = InProcessGrid(app, {2: {"client": "one"}, 3: {"client": "two"}})
    return grid, GridClients(grid, SparseExchange(SparseServer(layout, settings)))


def test_measured_bytes_are_the_payload_and_flowers_envelope():
    """The payload crosses once and as it is; what Flower adds stays within a stated kilobyte."""
    grid, clients = sparse_clients()
    sent = []
    real = grid.send_and_receive
    grid.send_and_receive = lambda messages: sent.extend(messages) or real(sent)
    replies = clients.train(START, round_number=1)
    payloads = [read_parcel(message.content).data for message in sent]
    assert replies.download_bytes == sum(serialised_bytes(message) for message in sent)
    in_payloads = sum(sizes_of(data, length=12).total_bytes for data in payloads)
    assert in_payloads == sum(map(len, payloads))
    assert 0 < replies.download_bytes - in_payloads < 2 * 1024
    assert replies.download.values_bytes == replies.upload.values_bytes == 2 * 6 * 4
    for update, number in zip(replies.updates, (1, 2), strict=True):
        change = Layout.of(START).flat(update.tensors) - Layout.of(START).flat(START)
        np.testing.assert_array_equal(change, [number] * 6 + [0] * 6)


@pytest.mark.parametrize(
    "arrays",
    [
        ArrayRecord({"sparse": Array("uint8", (4,), "motley.wire", b"oops")}),
        ArrayRecord({"sparse": Array(np.zeros(4, np.uint8))}),
        ArrayRecord({"a": Array(np.zeros((2, 3), np.float32))}),
        MetricRecord({"sparse": 1}),
    ],
)
def test_a_reply_that_holds_no_payload_is_refused_and_counted(arrays):
    """Malformed, of another type, or a dense reply: a refusal with its reason, its bytes counted."""
    app = ClientApp()
    records = {
        "config": ConfigRecord({"client": "c", "is_whole": 1}),
        "metrics": MetricRecord({"loss": 1.0, "num-examples": 3}),
        "arrays": arrays,
    }
    app.train()(lambda message, context: Message(RecordDict(records), reply_to=message))
    replies = sparse_clients(app)[1].train(START, round_number=1)
    assert not replies.updates
    assert all("cannot be decoded" in refusal.reason for refusal in replies.refusals)
    assert replies.upload.header_bytes == sum(r.sent_bytes for r in replies.refusals) > 0
