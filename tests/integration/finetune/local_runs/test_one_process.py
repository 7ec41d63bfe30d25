"""Local runs in one process: results that others read, runs that go on, plans that are followed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from local_job_files import write_local_job
from local_run_files import leavings, losses, step_lines
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import motley
from finetune.adapters import read_adapter
from finetune.errors import LocalRunError, RunFolderError
from finetune.local_runs.local_folder import LocalFolder
from finetune.local_runs.local_job import read_local_job
from finetune.local_runs.step_lengths import step_lengths
from planner.training.calibration import GroupMeasurement
from planner.training.training_plan import TrainingPlan

TESTS = Path(__file__).parents[3]


def mean_loss(model, tokenizer, rows):
    """Return the plain mean loss over documents, nats a token."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(row)["input_ids"]]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        total, count = total + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    return total / count


def held_out_rows(documents, fraction=0.2):
    """Return the documents that a run keeps out."""
    from finetune.client_texts import split

    rows = [json.loads(line)["text"] for line in documents.read_text().splitlines()]
    return split(rows, held_out_fraction=fraction)[1]


def test_an_adapter_is_what_peft_reads_and_lowers_the_loss_it_says(
    toy_model, documents, make_content, run_job, tmp_path
):
    """Losses before and after are those of a plain loop over the held-out documents."""
    result = run_job(make_content(steps=8), tmp_path / "run")
    manifest = read_adapter(tmp_path / "run" / "adapter")
    assert (manifest.method, manifest.rank, manifest.alpha) == ("local", 2, 4.0)
    assert manifest.clients[0].adapter_loss == result.loss < result.base_loss
    tokenizer = AutoTokenizer.from_pretrained(toy_model)
    model = AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32)
    rows = held_out_rows(documents)
    assert mean_loss(model, tokenizer, rows) == pytest.approx(result.base_loss, abs=1e-5)
    adapted = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter")
    assert mean_loss(adapted, tokenizer, rows) == pytest.approx(result.loss, abs=1e-5)


def test_full_weights_are_a_folder_of_transformers(documents, make_content, run_job, tmp_path):
    """Model and tokenizer load from it, and score what the run says."""
    content = make_content(adapter=None, learning_rate=0.003, gradient_checkpointing=True)
    result = run_job(content, tmp_path / "run")
    folder = tmp_path / "run" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert result.loss < result.base_loss
    assert mean_loss(model, tokenizer, held_out_rows(documents)) == pytest.approx(
        result.loss, abs=1e-5
    )


def test_a_step_is_the_plain_step_of_the_same_documents(
    toy_model, documents, make_content, run_job, tmp_path
):
    """Losses equal those of AdamW over a loop of plain forwards, one document each."""
    content = make_content(adapter=None, steps=3, learning_rate=0.003, warmup_steps=1)
    run_job(content, tmp_path / "run")
    from finetune.client_texts import split
    from finetune.local_runs.local_job import LocalJob
    from finetune.local_runs.local_text import BatchOrder

    rows = [json.loads(line)["text"] for line in documents.read_text().splitlines()]
    training = split(rows, held_out_fraction=0.2)[0]
    order = BatchOrder(LocalJob.model_validate(content), num_documents=len(training))
    tokenizer = AutoTokenizer.from_pretrained(toy_model)
    model = AutoModelForCausalLM.from_pretrained(toy_model, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for step, line in enumerate(step_lines(tmp_path / "run")):
        batch = [training[place] for place in order.positions(step)]
        ids = [[tokenizer.bos_token_id, *tokenizer(row)["input_ids"]] for row in batch]
        count = sum(len(row) - 1 for row in ids)
        optimiser.zero_grad()
        total = 0.0
        for row in map(torch.tensor, ids):
            loss = model(input_ids=row[None], labels=row[None]).loss * (len(row) - 1) / count
            loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = 0.003 * min(1.0, (step + 1) / 2)
        optimiser.step()
        assert line["loss"] == pytest.approx(total, abs=1e-5)
        assert line["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert line["tokens"] == sum(map(len, ids))


def test_a_run_leaves_its_plans_and_what_their_groups_took(make_content, run_job, tmp_path):
    """A plan a step, and measurements that calibration reads."""
    run_job(make_content(), tmp_path / "run")
    plans = (tmp_path / "run" / "plans.jsonl").read_text().splitlines()
    groups = [
        GroupMeasurement.model_validate_json(line)
        for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
    ]
    assert len(plans) == 5
    tokens = sum(sum(group.lengths) for group in groups)
    assert tokens == sum(line["tokens"] for line in step_lines(tmp_path / "run"))


def test_a_finished_run_is_not_repeated(make_content, run_job, tmp_path):
    """Its result is told again, nothing is written."""
    first = run_job(make_content(steps=2), tmp_path / "run")
    before = leavings(tmp_path / "run")
    stamp = (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns
    assert run_job(make_content(steps=2), tmp_path / "run") == first
    assert leavings(tmp_path / "run") == before
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(RunFolderError, match="differs in steps"):
        run_job(make_content(steps=3), tmp_path / "run")


def test_a_run_does_not_go_on_with_other_text(make_content, run_job, documents, tmp_path):
    """Text that changed under an interrupted run is told."""
    text = tmp_path / "text.jsonl"
    text.write_text(documents.read_text())
    content = make_content(data={"kind": "jsonl", "path": str(text)}, steps=2)
    run_job(content, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    text.write_text(documents.read_text() + '{"text": "one more document of other words"}\n')
    with pytest.raises(RunFolderError, match="began on other text; bring them back"):
        run_job(content, tmp_path / "run")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("adapter", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_killed_before_any_durable_write_goes_on_to_the_same_end(
    make_content, run_job, tmp_path, adapter
):
    """Losses, checkpoint and result of the resumed run are the unbroken run's to the last bit."""
    content = make_content(steps=3) | ({} if adapter else {"adapter": None})
    run_job(content, tmp_path / "unbroken")
    wanted = leavings(tmp_path / "unbroken")
    subprocess.run(
        [
            *(sys.executable, "-m", "local_kill_points"),
            *(write_local_job(tmp_path / "job.yaml", content), tmp_path / "killed"),
        ],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        check=True,
        timeout=500,
    )
    *killed, ended = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    assert leavings(ended) == wanted
    # Lock, job, first checkpoint; of each step plan, times and metrics in halves; two checkpoints.
    assert int(ended.name) - 1 >= 2 + 2 + 3 * 6 + 2 * 2
    for folder in killed:
        assert LocalFolder(folder).result() is None, folder
        run_job(content, folder)
        assert leavings(folder) == wanted, folder


def test_lengths_are_written_for_a_plan_that_the_run_then_follows(
    make_content, run_job, tmp_path, capsys
):
    """`--lengths` gives the sequences of all steps in order; a plan of them runs, and another not."""
    job_file = write_local_job(tmp_path / "job.yaml", make_content(steps=3))
    words = ["finetune", "local", str(job_file), "--lengths", str(tmp_path / "lengths.txt")]
    assert motley.main(words) == 0
    lengths = list(map(int, (tmp_path / "lengths.txt").read_text().split()))
    assert len(lengths) == 12
    batches = [tuple(lengths[start : start + 4]) for start in (0, 4, 8)]
    plan = tmp_path / "plan.json"
    plan.write_text(one_device_plan(batches).model_dump_json())
    run_job(make_content(steps=3, plan=str(plan)), tmp_path / "followed")
    run_job(make_content(steps=3), tmp_path / "own")
    assert losses(tmp_path / "followed") == pytest.approx(losses(tmp_path / "own"), abs=1e-5)
    plan.write_text(one_device_plan([batches[0], batches[2], batches[1]]).model_dump_json())
    with pytest.raises(LocalRunError, match="plan: batch 2 is of other text"):
        run_job(make_content(steps=3, plan=str(plan)), tmp_path / "other")


def one_device_plan(batches):
    """Return a plan for one device, a micro-batch a sequence."""
    from local_job_files import small_cluster, small_costs

    from finetune.local_runs.step_plans import solved
    from planner.training.cluster import Cluster
    from planner.training.sequence_costs import SequenceCosts, TrainingFleet

    cluster = Cluster.model_validate(small_cluster(num_devices=1))
    costs = SequenceCosts.model_validate(small_costs(device_tokens=130))
    fleet = TrainingFleet(cluster, costs, max_tokens=128)
    return TrainingPlan(
        schema_version=1,
        model="toy",
        cluster=cluster,
        costs=costs,
        max_tokens=128,
        batch_size=4,
        batches=tuple(solved(batch, fleet) for batch in batches),
    )


@pytest.mark.parametrize("name", ["one-process", "full-weights", "every-key"])
def test_shipped_jobs_find_their_model_and_text(repository, monkeypatch, name):
    """Every step of an example job has documents, none longer than it says."""
    monkeypatch.chdir(repository)
    job = read_local_job(repository / "configs" / "local" / f"{name}.yaml")
    lengths = step_lengths(job)
    assert len(lengths) >= job.batch_size
    assert max(lengths) <= job.max_tokens


def test_bfloat16_trains_near_float32(make_content, run_job, tmp_path):
    """The arithmetic is narrower, the losses are close and not equal."""
    run_job(make_content(steps=3), tmp_path / "float32")
    run_job(make_content(steps=3, precision="bfloat16"), tmp_path / "bfloat16")
    wide, narrow = losses(tmp_path / "float32"), losses(tmp_path / "bfloat16")
    assert narrow == pytest.approx(wide, abs=0.05)
    assert narrow != wide


def test_the_command_trains_and_says_what_it_gave(make_content, tmp_path, capsys):
    """Progress on standard error, the table and the adapter's folder on standard output."""
    job_file = write_local_job(tmp_path / "job.yaml", make_content(steps=2))
    run = tmp_path / "run"
    assert motley.main(["finetune", "local", str(job_file), "--output", str(run)]) == 0
    out = capsys.readouterr()
    assert f"adapter: {run / 'adapter'}" in out.out
    assert "step 2/2" in out.err
    assert (run / "plots.png").read_bytes().startswith(b"\x89PNG")
    assert motley.main(["finetune", "local", str(job_file), "--output", str(run)]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 500}, "max_tokens 500 is more than the 128 that"),
        ({"data": {"kind": "jsonl", "path": "none.jsonl"}}, "data: none.jsonl: no such file"),
        ({"adapter": {"rank": 1, "alpha": 1, "target_modules": ["x"]}}, "target_modules: 'x'"),
        ({"cluster": "none.yaml"}, "none.yaml: no such file"),
        ({"device": "cuda"}, "device: cuda, and torch finds none"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(make_content, tmp_path, capsys, changes, message):
    """Exit code 2, one line, no run folder."""
    if "device" in changes and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    job_file = write_local_job(tmp_path / "job.yaml", make_content(**changes))
    run = tmp_path / "run"
    assert motley.main(["finetune", "local", str(job_file), "--output", str(run)]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("motley:")]
    assert len(told) == 1
    assert message in told[0]
