"""Local runs of several processes: they train as one does, end together and go on exactly."""

import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from child_processes import Child, free_port
from local_job_files import memory_bytes_for, small_cluster, small_costs, write_local_job
from local_run_files import leavings, losses

from finetune.adapters import read_adapter
from finetune.local_runs.local_folder import LocalFolder

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def make_job(make_content, tmp_path):
    """Write a job whose devices hold so little that long documents need two."""

    def make(name, *, num_devices, **changes):
        cluster, costs = tmp_path / "cluster.yaml", tmp_path / "costs.yaml"
        costs.write_text(yaml.safe_dump(small_costs(device_tokens=64)))
        content = make_content(cluster=str(cluster), costs=str(costs), name=name, **changes)
        held = memory_bytes_for(content, num_devices=num_devices, device_tokens=64)
        devices = small_cluster(num_devices=num_devices, memory_bytes=held)
        cluster.write_text(yaml.safe_dump(devices))
        return write_local_job(tmp_path / f"{name}.yaml", content)

    return make


class Command(Child):
    """`motley finetune local` of a job into a folder."""

    def __init__(self, stack, job_file, folder, *options):
        words = ["-m", "motley", "finetune", "local", str(job_file), "--output", str(folder)]
        log = job_file.with_name(f"{job_file.stem}-{time.monotonic_ns()}.log")
        super().__init__(stack, [sys.executable, *words, *options], log)

    def rank(self, number):
        """Return the process id of a rank."""
        own = self._process.pid
        for word in Path(f"/proc/{own}/task/{own}/children").read_text().split():
            if f"RANK={number}".encode() in Path(f"/proc/{word}/environ").read_bytes().split(b"\0"):
                return int(word)
        raise AssertionError(f"no rank {number}:\n{self.output}")

    def wait_for_steps(self, folder, number, *, until):
        """Wait until so many steps are recorded."""
        while time.monotonic() < until:
            if (folder / "metrics.jsonl").exists() and len(losses(folder)) >= number:
                return
            assert self._process.poll() is None, self.output
            time.sleep(0.01)
        raise AssertionError(f"not {number} steps in time:\n{self.output}")


def messages(output):
    """Return the lines that say why a run ended."""
    told = ("motley: error: ", "rank ")
    return [line for line in output.splitlines() if line.startswith(told)]


def degrees(folder):
    """Return the degrees of all groups of all steps."""
    plans = [json.loads(line)["plan"] for line in (folder / "plans.jsonl").read_text().splitlines()]
    return {len(g["ranks"]) for p in plans for m in p["micro_batches"] for g in m["groups"]}


def torchrun(num_processes):
    """Return the words that start so many processes of a module."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", num_processes, "--master-port", "0"]
    return [*words, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m"]


def accelerate_launch(num_processes):
    """Return the words that start so many processes of a module; --multi_gpu means several."""
    words = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    words += ["--num_processes", num_processes, "--main_process_port", free_port()]
    return [*words, "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [torchrun, accelerate_launch])
def test_four_processes_of_a_launcher_train_as_one_does(
    launcher, make_content, make_job, run_job, tmp_path
):
    """In groups of two and of one; the losses are one process's, and the adapter is whole."""
    folder = tmp_path / "four"
    job_file = make_job("four", num_devices=4, batch_size=6)
    with ExitStack() as stack:
        words = ["motley", "finetune", "local", job_file, "--output", folder]
        words = [sys.executable, *map(str, [*launcher(4), *words])]
        ranks = Child(stack, words, tmp_path / "four.log")
        assert ranks.wait(until=time.monotonic() + 300) == 0, ranks.output
    one = run_job(make_content(batch_size=6), tmp_path / "one")
    assert degrees(folder) == {1, 2}
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert read_adapter(folder / "adapter").clients[0].adapter_loss == pytest.approx(
        one.loss, abs=1e-4
    )
    assert ranks.output.count("adapter: ") == 1


def test_a_killed_run_of_two_goes_on_exactly(make_job, tmp_path):
    """A rank killed, then the command killed: one message, nobody stays, and the same losses."""
    changes = {"adapter": None, "sharding": "fsdp2", "steps": 24, "learning_rate": 0.002}
    job_file = make_job("two", num_devices=2, checkpoint_every=4, **changes)
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    until = time.monotonic() + 400
    with ExitStack() as stack:
        assert Command(stack, job_file, unbroken, "--processes", "2").wait(until=until) == 0
        first = Command(stack, job_file, killed, "--processes", "2")
        first.wait_for_steps(killed, 5, until=until)
        os.kill(first.rank(1), signal.SIGKILL)
        assert first.wait(until=time.monotonic() + 60) == 1
        assert len(messages(first.output)) == 1, first.output
        assert LocalFolder(killed).result() is None

        second = Command(stack, job_file, killed, "--processes", "2")
        second.wait_for_steps(killed, 11, until=until)
        ranks = [second.rank(0), second.rank(1)]
        second.kill()
        ended = time.monotonic() + 60
        while any(map(is_running, ranks)):
            assert time.monotonic() < ended, "processes stayed behind the command"
            time.sleep(0.1)

        third = Command(stack, job_file, killed, "--processes", "2")
        assert third.wait(until=until) == 0, third.output
        assert "resumed" in third.output
    assert degrees(killed) == {1, 2}
    assert losses(killed) == losses(unbroken)
    assert leavings(killed) == leavings(unbroken)


def is_running(process_id):
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_ends_all_within_a_minute(stopped, make_job, tmp_path):
    """At the patience of real runs; the one message names the rank, and nobody stays."""
    job_file, folder = make_job("long", num_devices=2, steps=5000), tmp_path / "run"
    with ExitStack() as stack:
        command = Command(stack, job_file, folder, "--processes", "2")
        command.wait_for_steps(folder, 2, until=time.monotonic() + 200)
        ranks = [command.rank(0), command.rank(1)]
        os.kill(ranks[stopped], signal.SIGSTOP)
        assert command.wait(until=time.monotonic() + 60) == 1
    (told,) = messages(command.output)
    assert f"rank {stopped}" in told
    assert "was stopped" in told
    assert not any(map(is_running, ranks))


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_with_one_word(make_job, tmp_path):
    """The signal reaches every rank; the exit code is that of an interruption."""
    job_file, folder = make_job("long", num_devices=2, steps=5000), tmp_path / "run"
    with ExitStack() as stack:
        command = Command(stack, job_file, folder, "--processes", "2")
        command.wait_for_steps(folder, 3, until=time.monotonic() + 200)
        ranks = [command.rank(0), command.rank(1)]
        command.send(signal.SIGINT)
        assert command.wait(until=time.monotonic() + 60) == 130, command.output
    assert messages(command.output) == ["motley: error: interrupted"]
    assert not any(map(is_running, ranks))


@pytest.mark.slow
def test_what_rank_0_finds_is_told_once(make_job, tmp_path):
    """A cluster of another number of devices: one line, exit code 2."""
    job_file = make_job("three", num_devices=3)
    with ExitStack() as stack:
        command = Command(stack, job_file, tmp_path / "run", "--processes", "2")
        assert command.wait(until=time.monotonic() + 200) == 2, command.output
    (message,) = messages(command.output)
    assert "has 3 devices and 2 processes run" in message
