"""The run folder: one run of one job by one number of processes."""

import pytest
from local_job_files import local_job_content

from finetune.errors import RunFolderError
from finetune.local_runs.local_folder import LocalFolder, LocalResult
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.plan_journal import append_line, whole_lines

RESULT = LocalResult(result="adapter", steps=5, held_out_tokens=9, base_loss=3.0, loss=2.5)


def job_of(**changes):
    """Return a job."""
    return LocalJob.model_validate(local_job_content("m", "t", **changes))


def begun(folder):
    """Return a folder that holds a run of two processes."""
    run = LocalFolder(folder)
    with run.held(job_of(), num_processes=2):
        pass
    return run


@pytest.mark.parametrize(
    ("changes", "num_processes", "message"),
    [
        ({"seed": 1}, 2, "holds a run of another job (differs in seed)"),
        ({}, 4, "holds a run of 2 processes and this is one of 4; start 2"),
    ],
)
def test_another_run_is_refused(tmp_path, changes, num_processes, message):
    """The line says what differs and what to do."""
    run = begun(tmp_path / "run")
    with pytest.raises(RunFolderError) as caught:
        run.check(job_of(**changes), num_processes=num_processes)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["plan", "costs", "cluster"])
def test_a_file_that_changed_under_a_run_is_refused(tmp_path, key):
    """Steps that are planned otherwise would not go on exactly; a finished run has none left."""
    file = tmp_path / "planning.yaml"
    file.write_text("first: 1\n")
    job, run = job_of(**{key: str(file)}), LocalFolder(tmp_path / "run")
    with run.held(job, num_processes=1):
        pass
    run.check(job, num_processes=1)
    file.write_text("second: 2\n")
    with pytest.raises(RunFolderError, match=f"began with another {key} .*planning.yaml has ch"):
        run.check(job, num_processes=1)
    run.finish(RESULT)
    run.check(job, num_processes=1)


def test_what_is_no_run_is_refused(tmp_path):
    """A folder of something else, or a file, is not written to."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty and holds no local run"):
        LocalFolder(tmp_path).check(job_of(), num_processes=1)
    with pytest.raises(RunFolderError, match="is no folder"):
        LocalFolder(tmp_path / "notes.txt").check(job_of(), num_processes=1)


def test_a_run_that_goes_on_is_not_disturbed(tmp_path):
    """Two runs in one folder would write each other's checkpoints."""
    run = LocalFolder(tmp_path / "run")
    with (
        run.held(job_of(), num_processes=1),
        pytest.raises(RunFolderError, match="a run is going on in it"),
        LocalFolder(run.folder).held(job_of(), num_processes=1),
    ):
        pass


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    """Temporary names of what a process would have renamed."""
    run = begun(tmp_path / "run")
    (run.folder / ".checkpoint.safetensors.abc").write_bytes(b"half")
    (run.folder / ".adapter.abc").mkdir()
    with run.held(job_of(), num_processes=2):
        names = {path.name for path in run.folder.iterdir()}
    assert names == {".lock", "local-run.json"}


def test_a_torn_last_line_is_dropped(tmp_path):
    """Later lines do not hang on to half of one."""
    path = tmp_path / "lines.jsonl"
    append_line(path, "one")
    with path.open("a") as file:
        file.write("tw")
    assert whole_lines(path) == ["one"]
    append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"


def test_a_full_disk_is_told(tmp_path):
    """The line names the folder and what to do."""
    with pytest.raises(RunFolderError, match="cannot be written"):
        append_line(tmp_path / "missing" / "lines.jsonl", "one")
