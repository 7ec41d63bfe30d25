"""Whole jobs in process on a random model: result, resume, refusal."""

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM
from watched_job import Watcher, metrics

from finetune.adapters import read_adapter
from finetune.aggregation import STRATEGIES
from finetune.base_model import load_base_model
from finetune.client_texts import read_client
from finetune.config import JobConfig
from finetune.errors import RoundError, RunFolderError
from finetune.factors import is_down, resized
from finetune.job import run_job
from finetune.local_training import LocalTrainer
from finetune.lora import attach_adapter, read_tensors, write_tensors
from finetune.run_folder import RunFolder
from planner.documents import read_document
from planner.model_folder import weights_sha256


def test_a_job_leaves_a_complete_run(make_job, tmp_path, toy_model):
    """Every held-out loss falls; folder, metrics and manifest say what happened."""
    job, folder = make_job(), tmp_path / "run"
    manifest = run_job(job, folder=folder, observer=Watcher())
    assert manifest == read_adapter(folder / "adapter")
    assert [client.name for client in manifest.clients] == [c.name for c in job.clients]
    assert all(client.adapter_loss < client.base_loss for client in manifest.clients)
    assert manifest.base_weights_sha256 == weights_sha256(toy_model)
    assert (manifest.rounds, manifest.rank, manifest.num_refused_updates) == (3, 2, 0)
    assert read_document(folder / "job.json", JobConfig) == job
    lines = metrics(folder)
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all(line["loss"].keys() == {c.name for c in job.clients} for line in lines)
    assert all(line["upload_bytes"] > 0 and line["download_bytes"] > 0 for line in lines)
    names = {"job.json", "metrics.jsonl", "checkpoint.safetensors", "adapter", ".lock"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("aggregation", sorted(STRATEGIES))
def test_every_aggregation_trains_and_resumes(make_job, tmp_path, aggregation):
    """Losses fall, the manifest names the method, and a broken run ends as the unbroken one."""
    job = make_job(aggregation=aggregation)
    manifest = run_job(job, folder=tmp_path / "unbroken", observer=Watcher())
    assert manifest.method == aggregation
    assert all(client.adapter_loss < client.base_loss for client in manifest.clients)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run_job(job, folder=broken, observer=Watcher(interrupt_after=8))
    assert run_job(job, folder=broken, observer=Watcher()) == manifest
    lines = metrics(broken)
    assert lines == metrics(tmp_path / "unbroken")
    is_frozen = STRATEGIES[aggregation].is_down_frozen
    # FFA's A never crosses; FedSVD's goes down once the server has turned it.
    is_turned = aggregation == "fedsvd"
    assert (lines[-1]["upload_bytes"] < lines[-1]["download_bytes"] * 0.8) == is_turned
    if is_frozen:  # and B, all zero, crosses once
        assert lines[0]["download"]["values_bytes"] < lines[0]["upload"]["values_bytes"] / 2
    for line in lines:
        assert (line["aggregation_error"]["relative"] < 1e-6) == is_frozen


def test_a_frozen_a_is_not_trained(make_job, tmp_path):
    """Under FFA the adapter's A is the seeded draw, bit for bit, and B is not zero."""
    job = make_job(aggregation="ffa")
    run_job(job, folder=tmp_path / "run", observer=Watcher())
    drawn = read_tensors(attach_adapter(load_base_model(job.model).model, job))
    trained = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    for name, tensor in trained.items():
        assert np.array_equal(tensor, drawn[name]) == is_down(name), name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("aggregation", ["fedavg", "best-rank", "ffa", "fedsvd"])
def test_an_annealed_job_ends_at_its_last_rank(make_job, tmp_path, toy_model, aggregation):
    """Ranks and bytes fall from round to round, broken or not, and plain PEFT loads the result."""
    job = make_job(rank=8, alpha=4, final_rank=2, aggregation=aggregation)
    manifest = run_job(job, folder=tmp_path / "run", observer=Watcher())
    assert (manifest.rank, manifest.alpha) == (2, 1.0)
    assert all(client.adapter_loss < client.base_loss for client in manifest.clients)
    lines = metrics(tmp_path / "run")
    assert [line["rank"] for line in lines] == [8, 4, 2]
    assert lines[2]["upload_bytes"] < lines[1]["upload_bytes"] < lines[0]["upload_bytes"]
    with pytest.raises(KeyboardInterrupt):
        run_job(job, folder=tmp_path / "broken", observer=Watcher(interrupt_after=8))
    assert run_job(job, folder=tmp_path / "broken", observer=Watcher()) == manifest
    plain = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32),
        tmp_path / "run" / "adapter",
    )
    ours = attach_adapter(load_base_model(str(toy_model)).model, job).eval()
    write_tensors(ours, resized(load_file(tmp_path / "run" / "checkpoint.safetensors"), job.rank))
    ids = torch.arange(40).reshape(2, 20)
    with torch.inference_mode():
        wanted = ours(input_ids=ids).logits
        torch.testing.assert_close(plain.eval()(input_ids=ids).logits, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("aggregation", sorted(STRATEGIES))
def test_clients_of_different_ranks_make_one_adapter(make_job, tmp_path, aggregation):
    """One client trains a quarter of the components, another half: fewer bytes, and all learn."""
    equal = make_job(rank=8, alpha=8, rounds=2, aggregation=aggregation)
    clients = [
        client.model_copy(update={"rank": rank})
        for client, rank in zip(equal.clients, (2, None, 4), strict=True)
    ]
    unequal = equal.model_copy(update={"clients": tuple(clients)})
    run_job(equal, folder=tmp_path / "equal", observer=Watcher())
    manifest = run_job(unequal, folder=tmp_path / "unequal", observer=Watcher())
    assert manifest.num_refused_updates == 0
    assert all(client.adapter_loss < client.base_loss for client in manifest.clients)
    lines = metrics(tmp_path / "equal"), metrics(tmp_path / "unequal")
    for direction in ("upload_bytes", "download_bytes"):
        assert lines[1][-1][direction] < lines[0][-1][direction] * 0.8


def trained(job, start):
    """Return what one client makes of an adapter, and the model's whole adapter afterwards."""
    base = load_base_model(job.model)
    model = attach_adapter(base.model, job)
    texts = read_client(job.clients[0], held_out_fraction=0.2, render_chat=base.render_chat)
    trainer = LocalTrainer(model, base, texts, job, lambda round_number, loss: None)
    return *trainer.train(start, round_number=1), read_tensors(model)


def test_components_of_zeros_are_not_trained(make_job):
    """A model of higher rank trains a smaller adapter as a model of its rank does."""
    large, small = make_job(rank=6, alpha=6), make_job(rank=2, alpha=2)
    start = read_tensors(attach_adapter(load_base_model(small.model).model, small))
    padded, padded_loss, inside = trained(large, start)
    plain, plain_loss, _ = trained(small, start)
    assert padded_loss == pytest.approx(plain_loss, rel=1e-5)
    for name, tensor in plain.items():
        np.testing.assert_allclose(padded[name], tensor, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(inside[name], resized(padded, 6)[name])


def test_the_untrained_adapter_is_the_base_model(make_job, toy_model):
    """With B zero the logits are the base model's, so its loss is the base loss."""
    model = load_base_model(str(toy_model)).model.eval()
    ids = torch.arange(30).reshape(2, 15)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        after = attach_adapter(model, make_job()).eval()(input_ids=ids).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("interrupt_after", [1, 6, 7, 13, 18])
def test_an_interrupted_run_goes_on_to_the_same_result(make_job, tmp_path, interrupt_after):
    """Stopped in any round, the run ends with the unbroken run's adapter and metrics, bit for bit."""
    job = make_job()
    run_job(job, folder=tmp_path / "unbroken", observer=Watcher())
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run_job(job, folder=broken, observer=Watcher(interrupt_after=interrupt_after))
    assert not (broken / "adapter").exists()
    watcher = Watcher()
    run_job(job, folder=broken, observer=watcher)
    assert watcher.rounds[0] == (interrupt_after - 1) // 6 + 1
    for name in ("adapter_model.safetensors", "adapter_config.json", "motley.json"):
        unbroken = (tmp_path / "unbroken" / "adapter" / name).read_bytes()
        assert (broken / "adapter" / name).read_bytes() == unbroken
    assert metrics(broken) == metrics(tmp_path / "unbroken")


def test_a_metrics_line_without_its_checkpoint_is_dropped(make_job, tmp_path):
    """A stop between the line and the checkpoint leaves one line a round, not two."""
    job, folder = make_job(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_job(job, folder=folder, observer=Watcher(interrupt_after=8))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "loss"')
    run_job(job, folder=folder, observer=Watcher())
    assert [line["round"] for line in metrics(folder)] == [1, 2, 3]


def test_a_finished_run_is_not_repeated(make_job, tmp_path):
    """Running the job again returns the same manifest and trains nothing."""
    manifest = run_job(make_job(), folder=tmp_path / "run", observer=Watcher())
    watcher = Watcher()
    assert run_job(make_job(), folder=tmp_path / "run", observer=watcher) == manifest
    assert watcher.rounds == []


def test_another_jobs_folder_is_refused(make_job, tmp_path):
    """A run is not continued under other settings; the changed ones are named."""
    run_job(make_job(rounds=1), folder=tmp_path / "run", observer=Watcher())
    with pytest.raises(RunFolderError, match=r"differs in rank, rounds"):
        run_job(make_job(rounds=2, rank=4), folder=tmp_path / "run", observer=Watcher())


def test_two_runs_in_one_folder_do_not_mix(make_job, tmp_path):
    """While a run goes on, a second one of the same job is refused, early or late; then it may."""
    job, run = make_job(), RunFolder(tmp_path / "run")
    late = RunFolder(tmp_path / "run")
    late.check(job)  # the second checks before the first has begun
    with run.started(job):
        with pytest.raises(RunFolderError, match="a run is going on"):
            run_job(job, folder=tmp_path / "run", observer=Watcher())
        with pytest.raises(RunFolderError, match="a run is going on"), late.started(job):
            pass
    run_job(job, folder=tmp_path / "run", observer=Watcher())


def test_a_lock_of_a_run_that_never_began_is_no_content(make_job, tmp_path):
    """A process that was killed between the lock and the job, or writing it, left a free folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".job.json.x1y2").touch()
    run_job(make_job(rounds=1), folder=tmp_path / "run", observer=Watcher())


def test_what_a_failed_round_advises_can_be_done(make_job, tmp_path):
    """A learning rate that is too high asks for another folder, which takes the lower one."""
    with pytest.raises(RoundError, match="start anew in another folder with --output"):
        run_job(make_job(learning_rate=1e30), folder=tmp_path / "run", observer=Watcher())
    run_job(make_job(rounds=1), folder=tmp_path / "another", observer=Watcher())


def test_a_damaged_checkpoint_is_named(make_job, tmp_path):
    """A checkpoint that cannot be read is not passed over in silence."""
    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(), folder=tmp_path / "run", observer=Watcher(interrupt_after=8))
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(RunFolderError, match="checkpoint is damaged"):
        run_job(make_job(), folder=tmp_path / "run", observer=Watcher())


def test_one_client_is_a_job(make_job, texts, tmp_path):
    """A single client trains alone; its update is the adapter."""
    name, path = next(iter(texts.items()))
    clients = [{"name": name, "data": {"kind": "jsonl", "path": str(path)}}]
    manifest = run_job(make_job(clients=clients), folder=tmp_path / "run", observer=Watcher())
    assert [client.name for client in manifest.clients] == [name]


def test_the_shipped_model_learns_every_clients_domain(tmp_path, repository, tiny_family):
    """On the tiny model, each client's held-out loss falls below the base model's."""
    job = read_document(repository / "configs" / "finetune" / "three-clients.yaml", JobConfig)
    smaller = {"rounds": 2, "local_steps": 4, "sequence_tokens": 128, "held_out_tokens": 1024}
    job = job.model_copy(update={"model": str(tiny_family / "target"), **smaller})
    manifest = run_job(job, folder=tmp_path / "run", observer=Watcher())
    gains = {client.name: client.base_loss - client.adapter_loss for client in manifest.clients}
    assert min(gains.values()) > 0, gains
    assert np.mean(list(gains.values())) > 0.1, gains
