"""A deployed job without processes: the server's own round over clients in this one, keys believed."""

from pathlib import Path

from watched_job import Watcher

from finetune.config import JobConfig
from finetune.deployment.client import sparse_end
from finetune.deployment.grid_clients import DeployedClients
from finetune.deployment.grid_workers import reach_of
from finetune.deployment.server import exchange_of
from finetune.federation import load, local_trainer, seeded_of
from finetune.flower import CLIENT_KEY, make_client_app
from finetune.in_process_grid import InProcessGrid
from finetune.job import serve
from finetune.patience import Patience
from finetune.run_folder import RunFolder
from finetune.sparsity.ends import ServerEnd
from finetune.sparsity.kept_clients import StateFolder


def run_deployed(job: JobConfig, *, folder: Path, state: Path) -> None:
    """Run a job as `motley finetune server` does; the clients keep their state below `state`."""
    watcher = Watcher()
    base, model, start = load(job, watcher)
    trainers = {
        client.name: local_trainer(job, client, base, model, watcher) for client in job.clients
    }
    kept = StateFolder(state)
    kept.prepare()
    app = make_client_app(
        trainers.__getitem__,
        sparse=sparse_end(job, start.first_tensors, kept),
        identity_of=lambda name: start.identity,
        judge_every=job.judge_every,
        seeded=seeded_of(job, start.first_tensors),
    )
    names = dict(enumerate(trainers, start=100))
    seeded = seeded_of(job, start.first_tensors)
    end = None if job.sparsity is None else ServerEnd(start.first_tensors, job.sparsity, seeded)
    grid = InProcessGrid(app, {node: {CLIENT_KEY: name} for node, name in names.items()})
    patience = Patience(60, 60, check=lambda: None, sleep=lambda seconds: None)
    clients = DeployedClients(
        grid,
        names,
        clients=list(trainers),
        base_weights_sha256=start.base_weights_sha256,
        patience=patience,
        exchange=exchange_of(job, end, seeded, insecure=False),
        seeded=seeded,
    )
    run = RunFolder(folder)
    with run.started(job):
        reach = reach_of(grid, clients, start.base_weights_sha256, patience, seeded)
        serve(clients, start, job, run, watcher, end, reach)
