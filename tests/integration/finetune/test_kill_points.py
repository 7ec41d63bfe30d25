"""kill -9 before each durable write of a job: what runs again is the unbroken run, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_job import job_content, write_job
from watched_job import Watcher, metrics

from finetune.config import JobConfig
from finetune.job import run_job
from finetune.run_folder import RunFolder
from planner.documents import read_document

TESTS = Path(__file__).parents[2]
FEEDBACK = {
    "download_density": 0.5,
    "upload_density": 0.25,
    "download": "change",
    "error_feedback": {},
}
MACHINES = {
    name: {
        "seconds_per_step": seconds,
        "download_bytes_per_second": 1e4,
        "upload_bytes_per_second": 5e3,
    }
    for name, seconds in (("numbers", 1), ("colours", 2.5), ("animals", 4))
}
CLOCK = {"virtual_clock": {"machines": MACHINES}}
SELECTED = {"selection": {"kind": "uniform", "num_clients": 2}}
JOBS = {
    "synchronous": {},
    "sparse": {"sparsity": FEEDBACK},
    "fedcompass": {"scheduling": {"kind": "fedcompass", "most_steps": 4, **CLOCK}, "rounds": 3},
    "fedcompass-sparse": {
        "scheduling": {"kind": "fedcompass", **CLOCK},
        "sparsity": FEEDBACK,
        "rounds": 4,
    },
    "fedcompass-products": {
        "scheduling": {"kind": "fedcompass", **CLOCK},
        "aggregation": "best-rank",
        "final_rank": 1,
        "rounds": 3,
    },
    "fedstale": {"scheduling": {**SELECTED, "fedstale": {"beta": 0.5}, **CLOCK}},
    "fedbuff": {"scheduling": {"kind": "fedbuff", "concurrency": 2, **CLOCK}},
    "fedast": {
        "scheduling": {"kind": "fedast", **CLOCK},
        "adapters": [{"name": "one"}, {"name": "two"}],
    },
}
IN_EVERY_RUN = ("synchronous", "sparse", "fedcompass")


def leavings(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file but the lock; lines of metrics without the seconds they took."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    return files | {"metrics.jsonl": repr(metrics(folder)).encode()}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.slow) for name in JOBS],
)
def test_a_job_killed_before_any_durable_write_goes_on_to_the_same_end(
    toy_model, texts, tmp_path, name
):
    """Adapter, metrics and checkpoint of the resumed run are the unbroken run's to the last bit."""
    changes = {"rounds": 2, "local_steps": 1, "held_out_tokens": 48} | JOBS[name]
    content = job_content(toy_model, texts, output=tmp_path / "run", **changes)
    job_file = write_job(tmp_path / "job.yaml", content)
    job = read_document(job_file, JobConfig)
    run_job(job, folder=tmp_path / "unbroken", observer=Watcher())
    wanted = leavings(tmp_path / "unbroken")
    assert any("adapter_model" in file for file in wanted)
    subprocess.run(
        [sys.executable, "-m", "kill_points", job_file, tmp_path / "killed"],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        check=True,
        timeout=600,
    )
    folders = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    *killed, ended = folders
    assert leavings(ended) == wanted
    # The folder, its lock; the job and the first checkpoint, made and renamed; for each line its two
    # halves and a checkpoint; the adapter. Killed before the first, a run leaves no folder.
    assert int(ended.name) - 1 >= 2 + 2 * 2 + 4 * len(metrics(ended)) + 2
    for folder in killed:
        assert not RunFolder(folder).is_finished(job), folder
        run_job(job, folder=folder, observer=Watcher())
        assert leavings(folder) == wanted, folder
