"""Whole jobs with a scheduler, in process: what they leave, and how they go on."""

import json

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from watched_job import Watcher, metrics

from finetune.adapters import read_adapter
from finetune.errors import RunFolderError
from finetune.job import run_job
from finetune.run_folder import RunFolder

MACHINES = {
    name: {
        "seconds_per_step": seconds,
        "download_bytes_per_second": 1e4,
        "upload_bytes_per_second": 5e3,
    }
    for name, seconds in (("numbers", 1), ("colours", 2), ("animals", 4))
}
CLOCK = {"virtual_clock": {"machines": MACHINES}}
SPARSE = {
    "download_density": 0.5,
    "upload_density": 0.25,
    "download": "change",
    "error_feedback": {},
}


def weights(folder, name=""):
    """Return the bytes of a run's adapter."""
    return (RunFolder(folder).adapter_of(name) / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{}, {"sparsity": SPARSE}, {"aggregation": "best-rank", "final_rank": 1}],
    ids=["dense", "sparse", "falling"],
)
@pytest.mark.parametrize("clock", [CLOCK, {}], ids=["computed", "real"])
def test_synchronous_scheduling_of_everybody_is_the_plain_job(make_job, tmp_path, changes, clock):
    """The same adapter and losses, bit for bit, whichever way the clients are asked."""
    run_job(make_job(**changes), folder=tmp_path / "plain", observer=Watcher())
    scheduled = make_job(scheduling={"kind": "synchronous", **clock}, **changes)
    run_job(scheduled, folder=tmp_path / "scheduled", observer=Watcher())
    assert weights(tmp_path / "scheduled") == weights(tmp_path / "plain")
    lines, plain = metrics(tmp_path / "scheduled"), metrics(tmp_path / "plain")
    for line, other in zip(lines, plain, strict=True):
        for key in ("loss", "rank", "aggregation_error", "refused"):
            assert line[key] == other[key]
        for key in ("download", "upload"):
            assert line[key]["values_bytes"] == other[key]["values_bytes"]
            assert line[key]["index_bytes"] == other[key]["index_bytes"]


def test_fewer_clients_are_selected_than_there_are(make_job, tmp_path):
    """Two of three take part in each version, not always the same two."""
    selection = {"kind": "uniform", "num_clients": 2}
    job = make_job(scheduling={"selection": selection, **CLOCK}, rounds=4)
    run_job(job, folder=tmp_path / "run", observer=Watcher())
    taking_part = [frozenset(line["loss"]) for line in metrics(tmp_path / "run")]
    assert {len(names) for names in taking_part} == {2}
    assert len(set(taking_part)) > 1


def test_stale_changes_of_absent_clients_matter(make_job, tmp_path):
    """With FedStale the first version is FedAvg's, for nothing is remembered yet; later ones differ."""
    selection = {"kind": "uniform", "num_clients": 2}
    adapters = {}
    for rounds in (1, 3):
        for name, stale in (("plain", {}), ("stale", {"fedstale": {"beta": 1}})):
            folder = tmp_path / f"{name}-{rounds}"
            job = make_job(scheduling={"selection": selection, **stale, **CLOCK}, rounds=rounds)
            run_job(job, folder=folder, observer=Watcher())
            adapters[name, rounds] = load_file(folder / "adapter" / "adapter_model.safetensors")
    for tensor, plain in adapters["plain", 1].items():
        assert abs(adapters["stale", 1][tensor] - plain).max() < 1e-6
    differences = [abs(adapters["stale", 3][t] - p).max() for t, p in adapters["plain", 3].items()]
    assert max(differences) > 1e-4


def test_several_adapters_train_at_once_each_on_its_own_text(make_job, texts, tmp_path):
    """Each has a folder, its losses are on its own text, and every version is one line."""
    swapped = {"kind": "jsonl", "path": str(texts["animals"])}
    adapters = [{"name": "own"}, {"name": "animals", "data": {"numbers": swapped}}]
    job = make_job(scheduling={"kind": "fedast", **CLOCK}, adapters=adapters)
    folder = tmp_path / "run"
    run_job(job, folder=folder, observer=Watcher())
    manifests = {
        name: read_adapter(RunFolder(folder).adapter_of(name)) for name in job.adapter_names
    }
    lines = metrics(folder)
    for name, manifest in manifests.items():
        versions = [
            line["schedule"]["version"] for line in lines if line["schedule"]["adapter"] == name
        ]
        assert versions == list(range(1, manifest.rounds + 1))
        assert manifest.rounds >= job.rounds
        assert {client.name for client in manifest.clients} == {c.name for c in job.clients}
    base = {
        name: {client.name: client.base_loss for client in manifest.clients}
        for name, manifest in manifests.items()
    }
    assert base["own"]["colours"] == base["animals"]["colours"]
    assert base["own"]["numbers"] != base["animals"]["numbers"]
    assert weights(folder, "own") != weights(folder, "animals")
    watcher = Watcher()
    run_job(job, folder=folder, observer=watcher)
    assert watcher.rounds == []


@pytest.mark.parametrize("interrupt_after", [1, 5, 9])
def test_an_interrupted_run_in_real_time_goes_on(make_job, tmp_path, interrupt_after):
    """Versions count up once each, and the result is complete."""
    job = make_job(scheduling={"kind": "fedbuff"}, rounds=4)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_job(job, folder=folder, observer=Watcher(interrupt_after=interrupt_after))
    run_job(job, folder=folder, observer=Watcher())
    versions = [line["schedule"]["version"] for line in metrics(folder)]
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) in (4, 5)


def test_a_damaged_scheduler_is_named(make_job, tmp_path):
    """A checkpoint whose scheduler cannot be read is not begun anew in silence."""
    job, folder = make_job(scheduling={"kind": "fedbuff", **CLOCK}), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_job(job, folder=folder, observer=Watcher(interrupt_after=11))
    damage(folder / "checkpoint.safetensors")
    with pytest.raises(RunFolderError, match="checkpoint is damaged"):
        run_job(job, folder=folder, observer=Watcher())


def damage(checkpoint):
    """Take a field out of the scheduler's document."""
    with safe_open(checkpoint, framework="numpy") as file:
        header = json.loads(file.metadata()["header"])
    del header["schedule"]["scheduler"]["state"]["ledger"]
    save_file(load_file(checkpoint), checkpoint, metadata={"header": json.dumps(header)})
