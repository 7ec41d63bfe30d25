"""The server's side of a deployed job: a SuperLink beside this process, the rounds in it."""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune.adapters import Manifest, read_adapter
from finetune.config import DeploymentConfig, JobConfig
from finetune.deployment.certificates import public_key_file
from finetune.deployment.daemon import Daemon
from finetune.deployment.flower_processes import Link, check_deployment, start_superlink
from finetune.deployment.flower_run import register_node, started_run
from finetune.deployment.flower_runtime import is_up
from finetune.deployment.grid_clients import DeployedClients
from finetune.deployment.grid_workers import reach_of
from finetune.deployment.observer import LogObserver
from finetune.errors import DeploymentError
from finetune.federation import load, seeded_of
from finetune.flower_records import DenseExchange, Exchange
from finetune.flower_sparse import SparseExchange
from finetune.job import ended_run, serve
from finetune.patience import Patience
from finetune.run_folder import RunFolder
from finetune.run_plots import RunPlots
from finetune.seeded import Seeded
from finetune.sparsity.ends import ServerEnd

logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
_POLL_SECONDS = 0.2


def run_server(job: JobConfig, *, folder: Path, insecure: bool, goes_on: bool = False) -> Manifest:
    """Run a job with clients on other machines, going on where an interrupted run of it stopped.

    Args:
        job: What to do, with a `deployment`; its `output` and its clients' data are not looked at.
        folder: The run folder.
        insecure: Without TLS and keys; on loopback only.
        goes_on: Train the other rounds of a run that was asked to stop.

    Returns:
        The manifest of the adapter in `folder / "adapter"`.

    Raises:
        FinetuneError: If the job cannot be run as asked.
    """
    deployment = check_deployment(job, insecure=insecure)
    run = RunFolder(folder)
    run.check(job)
    if (ended := ended_run(run, job, goes_on=goes_on)) is not None:
        return ended
    keys = (
        {}
        if insecure
        else {
            client.name: read_public_key(public_key_file(deployment.certificates, client.name))
            for client in job.clients
        }
    )
    observer = LogObserver(RunPlots(folder))
    _, _, start = load(job, observer)
    seeded = seeded_of(job, start.first_tensors)
    end = None if job.sparsity is None else ServerEnd(start.first_tensors, job.sparsity, seeded)
    with run.started(job), tempfile.TemporaryDirectory(prefix="motley-") as scratch:
        run.set_adapters_aside(job)
        daemon, link = start_superlink(deployment, folder=Path(scratch), insecure=insecure)
        with daemon, _superlink_errors(daemon):
            _wait_until_up(daemon, link)
            logger.info("listening address=%s clients=%d", deployment.address, len(job.clients))
            names = {
                register_node(link, name=name, public_key=key): name for name, key in keys.items()
            }
            with started_run(link) as grid:
                patience = _patience(deployment, daemon)
                clients = DeployedClients(
                    grid,
                    None if insecure else names,
                    clients=[client.name for client in job.clients],
                    base_weights_sha256=start.base_weights_sha256,
                    least_clients=job.trust.least_clients,
                    exchange=exchange_of(job, end, seeded, insecure=insecure),
                    seeded=seeded,
                    patience=patience,
                )
                ranks = {node: job.client_ranks[name] for node, name in names.items()}
                reach = reach_of(grid, clients, start.base_weights_sha256, patience, seeded, ranks)
                observer.phase("waiting for clients")
                clients.wait_for(deployment.min_clients or len(job.clients))
                serve(clients, start, job, run, observer, end, reach)
                clients.end()
    return read_adapter(run.adapter_of(job.adapter_names[0]))


def exchange_of(
    job: JobConfig, end: ServerEnd | None, seeded: Seeded, *, insecure: bool
) -> Exchange:
    """Return how adapters travel; without keys nobody knows which client trains fewer components."""
    if end is not None:
        return SparseExchange(end.server)
    ranks = enumerate(job.client_ranks[client.name] for client in job.clients)
    return DenseExchange(seeded, None if insecure else dict(ranks))


def _patience(deployment: DeploymentConfig, daemon: Daemon) -> Patience:
    """Return how long a job waits for its clients, as long as the SuperLink lives."""
    return Patience(
        answer_seconds=deployment.answer_seconds,
        connection_seconds=deployment.wait_seconds,
        check=daemon.check,
    )


def read_public_key(path: Path) -> bytes:
    """Return a client's public key as PEM.

    Raises:
        DeploymentError: If there is none, or one that Flower does not take.
    """
    try:
        key = serialization.load_ssh_public_key(path.read_bytes())
    except OSError as error:
        raise DeploymentError(
            f"{path} cannot be read ({error.strerror}); make it with `motley finetune certs`, or "
            "put the client's own there"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DeploymentError(
            f"{path} is no public key of an elliptic curve in OpenSSH's form; make one with "
            "`ssh-keygen -t ecdsa -b 384`"
        )
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@contextmanager
def _superlink_errors(daemon: Daemon) -> Iterator[None]:
    """Tell a SuperLink that does not answer as a failure of the deployment."""
    try:
        yield
    except httpx.HTTPError as error:
        daemon.check()
        raise DeploymentError(
            f"the SuperLink does not answer ({error}); run the job again to go on after the last "
            "good round"
        ) from None


def _wait_until_up(daemon: Daemon, link: Link) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_up(link):
        daemon.check()
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"the SuperLink did not answer within {_START_SECONDS:g} s on {link.address}; "
                "check its certificate, which must name that address"
            )
        time.sleep(_POLL_SECONDS)
