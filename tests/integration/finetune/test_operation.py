"""`motley finetune status` and `stop`, and what a run leaves when it was asked to stop."""

import json
import stat
import threading

import pytest
from safetensors.numpy import load_file
from toy_job import WORDS, job_content, write_job
from watched_job import Watcher, metrics

import motley
from finetune.adapters import read_adapter
from finetune.errors import RunFolderError
from finetune.history import read_history, seconds_left
from finetune.job import run_job
from finetune.run_folder import RunFolder
from finetune.run_lock import ask_to_stop, is_asked, is_locked
from finetune.run_status import RunState, run_status


class Stopping(Watcher):
    """Calls something at the first local step of a round."""

    def __init__(self, in_round, call):
        super().__init__()
        self.in_round, self.call = in_round, call

    def step(self, round_number, loss):
        super().step(round_number, loss)
        if round_number == self.in_round:
            self.in_round = None
            self.call()


@pytest.fixture
def folder(tmp_path):
    """The run folder."""
    return tmp_path / "run"


def stopped(make_job, folder, *, in_round=2, **changes):
    """Run a job of four rounds that is asked to stop in one of them."""
    watcher = Stopping(in_round, lambda: ask_to_stop(folder))
    return run_job(make_job(rounds=4, **changes), folder=folder, observer=watcher)


def test_a_run_that_is_asked_to_stop_ends_with_its_round(make_job, folder, tmp_path):
    """It judges and writes the adapter that a job of so many rounds gives; its state says so."""
    manifest = stopped(make_job, folder)
    assert (manifest.rounds, len(metrics(folder))) == (2, 2)
    run_job(make_job(rounds=2), folder=tmp_path / "short", observer=Watcher())
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "short" / name).read_bytes()
    status = run_status(folder)
    assert (status.state, status.completed_rounds, status.num_rounds) == (RunState.STOPPED, 2, 4)
    assert status.seconds_left is None


def test_a_stopped_run_goes_on_only_when_told_to(make_job, folder, tmp_path, caplog):
    """Run again it says how; told to, it ends where the unbroken run does and keeps both adapters."""
    manifest = stopped(make_job, folder)
    watcher = Watcher()
    assert run_job(make_job(rounds=4), folder=folder, observer=watcher) == manifest
    assert watcher.rounds == []
    assert "--go-on trains the others" in caplog.text
    run_job(make_job(rounds=4), folder=folder, observer=watcher, goes_on=True)
    assert set(watcher.rounds) == {3, 4}
    run_job(make_job(rounds=4), folder=tmp_path / "unbroken", observer=Watcher())
    name = "adapter_model.safetensors"
    unbroken = (tmp_path / "unbroken" / "adapter" / name).read_bytes()
    assert (folder / "adapter" / name).read_bytes() == unbroken
    assert read_adapter(folder / "adapter-after-2-rounds") == manifest
    assert run_status(folder).state is RunState.FINISHED


def test_going_on_with_a_finished_run_does_nothing(make_job, folder):
    """There is nothing left to train, and the adapter stays where it is."""
    manifest = run_job(make_job(), folder=folder, observer=Watcher())
    watcher = Watcher()
    assert run_job(make_job(), folder=folder, observer=watcher, goes_on=True) == manifest
    assert watcher.rounds == []


def test_a_run_stopped_while_its_rank_falls_has_the_rank_it_reached(make_job, folder):
    """Configuration and manifest are of the tensors that are there, at the same scale."""
    manifest = stopped(make_job, folder, in_round=1, final_rank=1)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (manifest.rank, manifest.alpha) == (config["r"], config["lora_alpha"]) == (2, 4.0)
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in tensors.values()} == {2}


def test_a_request_to_a_killed_run_does_not_stop_the_next(make_job, folder):
    """A request names one run: the process that goes on runs to the end of the job."""

    def killed():
        ask_to_stop(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(), folder=folder, observer=Stopping(2, killed))
    assert (folder / ".stop").exists()
    assert run_status(folder).state is RunState.INTERRUPTED
    assert run_job(make_job(), folder=folder, observer=Watcher()).rounds == 3


def test_a_request_made_while_a_run_begins_is_not_lost(make_job, folder):
    """Asked after it took the folder, a run stops, though an older request lay there."""
    folder.mkdir()
    run = RunFolder(folder)
    for _ in range(2):
        with run.started(make_job()):
            assert not run.is_stop_asked()
            ask_to_stop(folder)
            ask_to_stop(folder)
            assert run.is_stop_asked()
            assert is_asked(folder)
        assert not run.is_stop_asked()


def test_a_run_that_cannot_be_asked_is_named(make_job, folder):
    """A run that wrote no token, such as an older version's, is not waited for in vain."""
    with RunFolder(folder).started(make_job()):
        (folder / ".lock").write_text("")
        with pytest.raises(RunFolderError, match="cannot be asked; end it with Ctrl-C"):
            ask_to_stop(folder)


def test_looking_at_a_run_does_not_keep_it_from_starting(make_job, folder):
    """Whoever asks for the state holds the lock for an instant; a run that begins waits for that."""
    run = RunFolder(folder)
    with run.started(make_job()):
        assert is_locked(folder)
    is_over = threading.Event()

    def look():
        while not is_over.is_set():
            is_locked(folder)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with run.started(make_job()):
                pass
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_status_of_a_run_that_goes_on(make_job, folder):
    """Rounds, losses, bytes and time left stand in the folder while the run is at work."""
    seen = []
    watcher = Stopping(3, lambda: seen.append(run_status(folder)))
    run_job(make_job(), folder=folder, observer=watcher)
    (status,) = seen
    history = read_history(folder)[:2]
    assert (status.state, status.completed_rounds, status.num_rounds) == (RunState.RUNNING, 2, 3)
    assert status.training_loss == pytest.approx(history[1].mean_loss)
    assert status.held_out.loss.keys() == WORDS.keys()
    assert status.download_bytes == sum(line.download_bytes for line in history)
    assert status.seconds_left == seconds_left(history, num_rounds=3)
    assert (status.refusals, status.adapters) == ({}, {})


def test_a_line_that_is_being_written_is_not_read(make_job, folder):
    """A reader that comes in the middle of a line sees the rounds before it."""
    run_job(make_job(rounds=1), folder=folder, observer=Watcher())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "lo')
    assert [line.round for line in read_history(folder)] == [1]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is malformed"):
        read_history(folder)


def test_the_checkpoint_is_its_owners_alone(make_job, folder):
    """Residuals are made of private text: no one else may read them."""
    run_job(make_job(rounds=1), folder=folder, observer=Watcher())
    assert stat.S_IMODE((folder / "checkpoint.safetensors").stat().st_mode) == 0o600


def test_the_commands_tell_each_state(make_job, folder, tmp_path, toy_model, texts, capsys):
    """No run, an interrupted one, a stopped one, a finished one: one line of what to do, or none."""
    content = job_content(toy_model, texts, output=folder, rounds=4)
    file = str(write_job(tmp_path / "job.yaml", content))

    def said(*words, exit_code=0):
        capsys.readouterr()
        assert motley.main(["finetune", *words]) == exit_code
        captured = capsys.readouterr()
        return " ".join((captured.err if exit_code else captured.out).split())

    for word in ("status", "stop"):
        assert "holds no run" in said(word, str(folder), exit_code=2)
    with pytest.raises(KeyboardInterrupt):
        run_job(make_job(rounds=4), folder=folder, observer=Watcher(interrupt_after=8))
    assert "interrupted; run the job again to go on" in said("status", str(folder))
    line = said("stop", str(folder), exit_code=2)
    assert "no run is going on in it (1 of 4 rounds are saved); run the job again" in line
    stopped(make_job, folder)
    assert "--go-on" in said("status", str(folder))
    assert "is stopped already" in said("stop", str(folder), "--wait")
    said("run", file, "--go-on")
    assert "finished" in said("status", str(folder))
    assert "is finished already" in said("stop", str(folder))
    shown = json.loads(said("status", str(folder), "--json"))
    assert (shown["state"], shown["completed_rounds"]) == ("finished", 4)
    assert (folder / "plots.png").read_bytes().startswith(b"\x89PNG")


def test_stop_waits_for_the_run_to_end(make_job, folder, capsys):
    """With --wait the command returns when the adapter is there, and says how the run ended."""
    codes = []

    def stop():
        codes.append(motley.main(["finetune", "stop", str(folder), "--wait"]))

    thread = threading.Thread(target=stop)

    def begin():
        thread.start()
        while not is_asked(folder):
            pass

    run_job(make_job(rounds=4), folder=folder, observer=Stopping(1, begin))
    thread.join(timeout=60)
    assert codes == [0]
    assert "1 of 4 saved" in capsys.readouterr().out


def test_status_and_stop_of_a_job_with_several_adapters(make_job, folder):
    """Versions of all are counted, and a stopped run goes on, is stopped and goes on again."""
    several = {
        "scheduling": {"kind": "fedast", "buffer_size": 3},
        "adapters": [{"name": "one"}, {"name": "two"}],
    }
    job = make_job(**several)
    run_job(job, folder=folder, observer=Stopping(1, lambda: ask_to_stop(folder)))
    status = run_status(folder)
    assert (status.state, status.num_rounds) == (RunState.STOPPED, 2 * job.rounds)
    again = Stopping(2, lambda: ask_to_stop(folder))
    run_job(job, folder=folder, observer=again, goes_on=True)
    run_job(job, folder=folder, observer=Watcher(), goes_on=True)
    status = run_status(folder)
    assert status.state is RunState.FINISHED
    assert status.completed_rounds >= status.num_rounds
    assert sorted(status.adapters) == ["one", "two"]
    assert status.upload_bytes == sum(line["upload_bytes"] for line in metrics(folder))
    assert {losses.name.partition("/")[0] for losses in status.result} == {"one", "two"}
