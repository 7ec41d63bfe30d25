"""Job files of local runs: what is refused, and that what is shipped is valid."""

import re
from pathlib import Path

import pytest
import yaml
from local_job_files import local_job_content, write_local_job

from finetune.local_runs.local_job import (
    MOST_SOLVER_SECONDS,
    LocalAdapter,
    LocalJob,
    differences,
    read_local_job,
)
from finetune.sequence_parallel.distributed import COLLECTIVE_SECONDS
from planner.errors import DocumentError

FOLDER = Path(__file__).parents[4] / "configs" / "local"
ANNOTATED = (FOLDER / "every-key.yaml").read_text()


def make(**changes):
    """Return a job with some keys changed."""
    return LocalJob.model_validate(local_job_content(Path("m"), Path("t.jsonl"), **changes))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_job_parses(path):
    """The file fits the schema and writes below `runs`."""
    assert read_local_job(path).output.parent == Path("runs")


@pytest.mark.parametrize("model", [LocalJob, LocalAdapter])
def test_every_key_stands_in_the_annotated_job(model):
    """A key that is added to a job is explained there, commented out or not."""
    keys = model.model_fields
    missing = [key for key in keys if not re.search(rf"^ *(# )?{key}:", ANNOTATED, re.MULTILINE)]
    assert not missing, f"explain {missing} in configs/local/every-key.yaml"


def test_what_is_commented_out_is_valid():
    """Each alternative is taken in place of what it goes against."""
    content = yaml.safe_load(re.sub(r"^# (?=\w+:)", "", ANNOTATED, flags=re.MULTILINE))
    with_plan = {key: content[key] for key in content if key not in ("steps", "cluster", "costs")}
    assert LocalJob.model_validate(with_plan).plan is not None
    without = {key: content[key] for key in content if key not in ("epochs", "plan")}
    assert LocalJob.model_validate(without).cluster is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "steps, epochs: both are given; give one of them"),
        ({"steps": None}, "steps, epochs: neither is given; give one of them"),
        ({"warmup_steps": 6}, "warmup_steps: 6 are more than 5 steps; lower it"),
        ({"plan": "p.json", "costs": "c.json"}, "costs: the plan p.json has its own"),
        ({"output": ""}, "is empty; name the run's folder"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"solver_seconds": 601}, "solver_seconds"),
        ({"stepz": 1}, "near: steps"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path, changes, message):
    """The line names the key, the value and what to do."""
    content = local_job_content(Path("m"), Path("t.jsonl"), **changes)
    with pytest.raises(DocumentError) as caught:
        read_local_job(write_local_job(tmp_path / "job.yaml", content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_processes_wait_for_the_slowest_plan():
    """An exchange lasts longer than the solver may take, with time to spare."""
    make(solver_seconds=MOST_SOLVER_SECONDS)
    assert COLLECTIVE_SECONDS >= 2 * MOST_SOLVER_SECONDS


def test_only_keys_that_decide_the_outcome_make_another_job():
    """A run may be moved, and checkpointed more often."""
    assert differences(make(), make(output="elsewhere", checkpoint_every=7)) == []
    assert differences(make(), make(seed=1, adapter=None)) == ["adapter", "seed"]
