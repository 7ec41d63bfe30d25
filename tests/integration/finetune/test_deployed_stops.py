"""A deployed sparse job stopped at each point of a round and resumed: the unbroken run, bit for bit."""

import pytest
from deployed_job import run_deployed
from safetensors.numpy import load_file
from watched_job import metrics

from finetune.run_folder import RunFolder
from finetune.sparsity.kept_clients import StateFolder

SPARSITY = {
    "download_density": 0.3,
    "upload_density": 0.125,
    "download": "change",
    "download_values": "bfloat16",
    "upload_values": "int8",
    "error_feedback": {"decay_per_missed_round": 0.9},
}


class Stop:
    """Interrupts the process before or after one call of a method."""

    def __init__(self, owner, method, call, *, is_after):
        self.owner, self.method, self.call, self.is_after = owner, method, call, is_after

    def __str__(self):
        return f"{self.owner.__name__}.{self.method} {self.call} {'after' * self.is_after}"

    def put_in(self, patch):
        """Have the method interrupt."""
        real, calls = getattr(self.owner, self.method), []

        def stopping(*words, **keys):
            calls.append(1)
            is_now = len(calls) == self.call
            if is_now and not self.is_after:
                raise KeyboardInterrupt
            real(*words, **keys)
            if is_now:
                raise KeyboardInterrupt

        patch.setattr(self.owner, self.method, stopping)


STOPS = [
    *(Stop(RunFolder, "save", call, is_after=after) for call in (1, 2, 3) for after in (0, 1)),
    *(Stop(RunFolder, "append_metrics", call, is_after=True) for call in (1, 2)),
    *(Stop(StateFolder, "save", call, is_after=after) for call in (1, 5, 9) for after in (0, 1)),
]
"""Around the server's checkpoints, and around the state of a client that is first, amid or last."""


def result(folder, state):
    """Return everything that must not depend on interruptions, the clients' disks included."""
    adapter = {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}
    files = [folder / "checkpoint.safetensors", *sorted(state.iterdir())]
    arrays = [{name: a.tobytes() for name, a in load_file(file).items()} for file in files]
    return adapter, metrics(folder), arrays


def test_a_stop_at_any_point_changes_nothing(make_job, tmp_path, monkeypatch):
    """Adapter, metrics, checkpoint and what each client keeps: as if nothing had happened."""
    job = make_job(sparsity=SPARSITY, local_steps=1)
    run_deployed(job, folder=tmp_path / "unbroken", state=tmp_path / "kept")
    unbroken = result(tmp_path / "unbroken", tmp_path / "kept")
    for number, stop in enumerate(STOPS):
        folder, state = tmp_path / f"run-{number}", tmp_path / f"kept-{number}"
        with monkeypatch.context() as patch:
            stop.put_in(patch)
            with pytest.raises(KeyboardInterrupt):
                run_deployed(job, folder=folder, state=state)
        run_deployed(job, folder=folder, state=state)
        assert result(folder, state) == unbroken, str(stop)
