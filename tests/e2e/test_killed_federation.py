"""A sparse job on real processes, server and clients killed at enumerated points: nothing counts twice."""

import json
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml
from child_processes import REPOSITORY, Child, free_port
from safetensors.numpy import load_file
from toy_job import WORDS, job_content, write_texts, write_toy_model
from watched_job import Watcher

import motley
from finetune.adapters import read_adapter
from finetune.config import JobConfig
from finetune.federation import load, local_trainer
from finetune.job import run_job
from finetune.sparsity.kept_clients import StateFolder
from finetune.sparsity.layout import Layout
from finetune.sparsity.settlement import settled
from planner.demo.processes import motley_command

DEADLINE_SECONDS = 800
"""Eleven starts of a process that imports torch: most of it is waiting for busy cores."""
CLIENTS = tuple(WORDS)
ROUNDS = 20
SPARSITY = {
    "download_density": 0.25,
    "upload_density": 0.25,
    "download": "change",
    "error_feedback": {},
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The job, whose clients have keys."""
    folder = tmp_path_factory.mktemp("job")
    words = ["finetune", "certs", "--output", str(folder / "certs")]
    assert motley.main([*words, *(word for name in CLIENTS for word in ("--client", name))]) == 0
    return job_content(
        write_toy_model(folder / "model"),
        write_texts(folder),
        output=folder / "run",
        rank=8,
        alpha=16,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        rounds=ROUNDS,
        local_steps=20,
        learning_rate=0.005,
        sparsity=SPARSITY,
        deployment={
            "address": f"127.0.0.1:{free_port()}",
            "certificates": str(folder / "certs"),
            "wait_seconds": 120,
            "answer_seconds": 20,
        },
    )


class Site:
    """The processes of the job, each in as many lives as it takes."""

    def __init__(self, stack, folder, content):
        self.stack, self.folder = stack, folder
        self.job = folder / "job.yaml"
        self.job.write_text(yaml.safe_dump(content))
        self.state, self.book = folder / "state", folder / "book"
        self.book.mkdir()
        self.lives = []
        self.server_logs = []

    def serve(self, *death):
        """Start the server; with `before` or `after` and a round it will kill itself."""
        words = motley_command(["finetune", "server", str(self.job)])
        if death:
            words = [sys.executable, str(REPOSITORY / "tests" / "mortal_server.py")]
            words += [str(self.job), *death]
        child = self._child(words, "server")
        self.server_logs.append(child)
        return child

    def take_part(self, name, *death):
        """Start a client; with a point and a round it will kill itself."""
        words = [sys.executable, str(REPOSITORY / "tests" / "mortal_client.py"), str(self.job)]
        return self._child([*words, name, str(self.state), str(self.book), *death], name)

    def _child(self, words, name):
        number = len(self.lives)
        child = Child(self.stack, words, self.folder / f"{number}-{name}.log")
        self.lives.append(child)
        return child


def history(server_logs):
    """Return, from the servers' logs, each client's uploads in the rounds that stand, in order."""
    rounds: dict[int, dict[str, int]] = {}
    taken: dict[int, int] = {}
    for line in "".join(child.output for child in server_logs).splitlines():
        if found := re.search(r"run resumed .*completed_rounds=(\d+)", line):
            rounds = {number: r for number, r in rounds.items() if number <= int(found[1])}
        elif found := re.search(r"upload taken node=(\d+) upload=(\w+)", line):
            taken[int(found[1])] = int(found[2], 16)
        elif found := re.search(r"answer round=(\d+) client=(\w+) is_update=True", line):
            upload = taken[CLIENTS.index(found[2])]
            rounds.setdefault(int(found[1]), {})[found[2]] = upload
    return rounds


def book_of(site):
    """Return every upload that a client made, by client and number."""
    return {
        (name, int(number, 16)): np.load(path)
        for path in site.book.iterdir()
        for name, number in [path.stem.split("-")]
    }


def account(site, folder, first, num_examples):
    """Check the books: what clients sent, what the server counted, what is on their disks."""
    rounds, book = history(site.server_logs), book_of(site)
    assert list(rounds) == list(range(1, ROUNDS + 1))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [set(line["loss"]) for line in lines] == [set(r) for r in rounds.values()]

    # The server's adapter is the first one and the means of the changes it counted, once each.
    layout = Layout.of(first)
    adapter = layout.flat(first).astype(np.float64)
    for uploads in rounds.values():
        sent = [book[name, number]["sent"].astype(np.float64) for name, number in uploads.items()]
        adapter += np.average(sent, axis=0, weights=[num_examples[name] for name in uploads])
    checkpoint = load_file(folder / "checkpoint.safetensors")
    final = layout.flat({name: checkpoint[name] for name in first})
    np.testing.assert_allclose(final, adapter, atol=1e-4)

    for name in CLIENTS:
        counted = [uploads[name] for uploads in rounds.values() if name in uploads]
        assert len(set(counted)) == len(counted)
        # Every upload started from what the one counted before it left over, and from nothing else.
        previous = dict(zip(counted, [0, *counted], strict=False))
        for (client, number), upload in book.items():
            if client != name:
                continue
            receipt = int(upload["receipt"])
            assert previous.get(number, receipt) == receipt
            used = upload["sent"] + upload["left"] - upload["change"]
            left = 0.0 if receipt == 0 else book[name, receipt]["left"]
            np.testing.assert_allclose(used, np.broadcast_to(left, used.shape), atol=1e-5)
        # All its changes that were counted are in what was sent, or still on its disk.
        total = sum(book[name, number]["change"].astype(np.float64) for number in counted)
        sent = sum(book[name, number]["sent"].astype(np.float64) for number in counted)
        held = settled(StateFolder(site.state).load(name), counted[-1]).state.residual.vector
        np.testing.assert_allclose(sent + held, total, atol=1e-4)
    return len(book) - sum(map(len, rounds.values()))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_counted_twice_whoever_is_killed(content, tmp_path):
    """Killed around every write: the sums come out, and the loss gives up 2 % of its fall at most."""
    job = JobConfig.model_validate(content)
    unbroken = run_job(job, folder=tmp_path / "unbroken", observer=Watcher())
    until = time.monotonic() + DEADLINE_SECONDS
    one, two, three = CLIENTS
    with ExitStack() as stack:
        site = Site(stack, tmp_path, content)
        server = site.serve("before", "3")
        clients = {
            one: site.take_part(one, "training", "2"),
            two: site.take_part(two, "written", "4"),
            three: site.take_part(three),
        }
        assert clients[one].wait(until=until) == -9
        clients[one] = site.take_part(one)
        server.wait_for(rf"answer round=2 client={three}", until=until)
        clients[three].kill()
        clients[three] = site.take_part(three)
        assert server.wait(until=until) == -9
        server = site.serve("after", "5")
        assert clients[two].wait(until=until) == -9
        clients[two] = site.take_part(two)
        assert server.wait(until=until) == -9
        server = site.serve()
        server.wait_for(r"answer round=6 ", until=until)
        server.kill()
        server = site.serve()
        assert server.wait(until=until) == 0, server.output
        assert [client.wait(until=until) for client in clients.values()] == [0, 0, 0]

    folder = Path(content["output"])
    base, model, start = load(job, Watcher())
    num_examples = {
        client.name: local_trainer(job, client, base, model, Watcher()).num_examples
        for client in job.clients
    }
    assert account(site, folder, start.first_tensors, num_examples) > 0
    manifest = read_adapter(folder / "adapter")
    gains = [
        np.mean([client.base_loss - client.adapter_loss for client in each.clients])
        for each in (unbroken, manifest)
    ]
    assert gains[1] > 0.98 * gains[0], gains
