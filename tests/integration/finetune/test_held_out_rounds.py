"""Jobs whose clients judge the adapter they are sent before they train it."""

import pytest
from toy_job import WORDS
from watched_job import Watcher, metrics

from finetune.job import run_job

SPARSE = {"download_density": 0.5, "upload_density": 0.25, "download": "change"}
SECURE = {"secure_sum": {"threshold": 2}, "clip_norm": 1.0}

FLOWERS_HEADER_BYTES = 2500
"""Above the length of a message of Flower's that carries no array."""


def losses(folder):
    """Return each round's held-out losses by client."""
    return [line["held_out"]["loss"] for line in metrics(folder)]


def test_each_round_reports_how_the_one_before_it_ended(make_job, tmp_path):
    """The first line has the base model's losses, the second those that a job of one round ends with."""
    whole = run_job(make_job(), folder=tmp_path / "whole", observer=Watcher())
    short = run_job(make_job(rounds=1), folder=tmp_path / "short", observer=Watcher())
    lines = losses(tmp_path / "whole")
    assert lines[0] == {one.name: one.base_loss for one in whole.clients}
    assert lines[1] == {one.name: one.adapter_loss for one in short.clients}
    held_out = metrics(tmp_path / "whole")[2]["held_out"]
    assert held_out["tokens"] == {one.name: one.held_out_tokens for one in whole.clients}
    assert held_out["mean"] == pytest.approx(sum(held_out["loss"].values()) / len(WORDS))
    changes = {name: held_out["loss"][name] - lines[0][name] for name in WORDS}
    assert held_out["worst"] == max(changes, key=changes.get)
    assert held_out["worst_change"] == max(changes.values()) < 0


@pytest.mark.parametrize(
    ("every", "judged"), [(0, [True, False, False, False]), (2, [True, False, True, False])]
)
def test_judging_less_often_changes_nothing_else(make_job, tmp_path, every, judged):
    """The adapter is the same bit for bit, and the key may change within a run."""
    run_job(make_job(rounds=4), folder=tmp_path / "each", observer=Watcher())
    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(rounds=4), folder=tmp_path / "run", observer=Watcher(interrupt_after=2))
    job = make_job(rounds=4, judge_every=every)
    run_job(job, folder=tmp_path / "run", observer=Watcher())
    assert [bool(line) for line in losses(tmp_path / "run")] == judged
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()


@pytest.mark.parametrize(
    "changes", [{"sparsity": SPARSE}, {"trust": SECURE}], ids=["sparse", "secure sum"]
)
def test_every_kind_of_job_reports_each_client(make_job, tmp_path, changes):
    """Under a secure sum too the server sees each client's loss, by name."""
    run_job(make_job(**changes), folder=tmp_path / "run", observer=Watcher())
    lines = losses(tmp_path / "run")
    assert [line.keys() for line in lines] == [WORDS.keys()] * 3
    assert all(lines[2][name] < lines[0][name] for name in WORDS)


def test_the_base_model_is_judged_without_an_adapter(make_job, tmp_path):
    """Judging costs one adapter to each client, at the end, and is counted apart from the rounds."""
    manifest = run_job(make_job(rounds=1), folder=tmp_path / "run", observer=Watcher())
    (line,) = metrics(tmp_path / "run")
    assert manifest.traffic.download_bytes == line["download_bytes"]
    assert manifest.traffic.upload_bytes == line["upload_bytes"]
    header = manifest.traffic.judging_download_bytes - line["download_bytes"]
    assert 0 < header < len(WORDS) * FLOWERS_HEADER_BYTES
    assert 0 < manifest.traffic.judging_upload_bytes < 2 * len(WORDS) * FLOWERS_HEADER_BYTES
