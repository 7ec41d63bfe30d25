"""A client's side of a deployed job: a SuperNode beside this process, the base model in it.

One process holds the base model and the client's tokens for as long as the client takes part; each
message of the server is answered by it.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

import httpx
from flwr.app import Context, Message

from finetune.config import ClientConfig, JobConfig
from finetune.deployment.daemon import Daemon
from finetune.deployment.flower_processes import check_deployment, start_supernode
from finetune.deployment.flower_worker import Worker
from finetune.deployment.grid_clients import BASE_KEY
from finetune.deployment.observer import LogObserver
from finetune.errors import BaseModelError, DeploymentError
from finetune.flower import CLIENT_KEY, Trainer, make_client_app
from finetune.job import load, local_trainer
from finetune.trust.identity import BaseIdentity

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_AGAIN_SECONDS = 10.0
_UNREACHED_SECONDS = 60.0
"""A SuperNode that ran so long and answered nothing did not reach the server; a refusal is quick."""
_REFUSED_SECONDS = 75.0
"""How long a client that the server does not let in tries again. Flower 1.41 gives no reason: the
key may be wrong, not read yet, or still connected for the 60 s that a killed SuperNode is missed."""


class MakeTrainer(Protocol):
    """Makes a client's trainer, and says which base model it is for."""

    def __call__(self, job: JobConfig, client: ClientConfig) -> tuple[Trainer, BaseIdentity]:
        """Return the trainer and the digests of its base model."""


def make_trainer(job: JobConfig, client: ClientConfig) -> tuple[Trainer, BaseIdentity]:
    """Load the base model and read the client's text.

    Raises:
        FinetuneError: If model or text do not serve.
    """
    observer = LogObserver()
    base, model, start = load(job, observer)
    return local_trainer(job, client, base, model, observer), start.identity


def run_client(
    job: JobConfig, *, name: str, insecure: bool, make_trainer: MakeTrainer = make_trainer
) -> None:
    """Take part in a job as one of its clients until stopped.

    The server may end, and start again: the SuperNode then connects anew.

    Args:
        job: What to do, with a `deployment`; of the clients' data this one's alone is read.
        name: Which of the job's clients this is.
        insecure: Without TLS and keys; on loopback only.
        make_trainer: Makes what trains.

    Raises:
        FinetuneError: If the job or the client's text does not serve, or the server does not take
            the client's key.
    """
    clients = {client.name: client for client in job.clients}
    if name not in clients:
        raise DeploymentError(
            f"--name {name!r} is no client of the job; it has {', '.join(clients)}"
        )
    deployment = check_deployment(job, insecure=insecure, client=name)
    trainer, identity = make_trainer(job, clients[name])
    app = make_client_app(lambda _: trainer, identity_of=lambda _: identity)
    config = f'{CLIENT_KEY}="{name}"'
    refused_since: float | None = None
    while True:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="motley-") as scratch:
            daemon, link = start_supernode(
                deployment, client=name, node_config=config, folder=Path(scratch), insecure=insecure
            )
            logger.info("taking part client=%s server=%s", name, deployment.address)
            worker = Worker(link, app, before=checks(identity.weights.hex()))
            try:
                with daemon, closing(worker):
                    _answer_until_ended(worker, daemon)
                logger.warning("the server was started anew, connecting again")
            except DeploymentError as error:
                now = time.monotonic()
                if worker.num_answered or now - started > _UNREACHED_SECONDS:
                    refused_since = None
                elif refused_since is None:
                    refused_since = started
                elif now - refused_since > _REFUSED_SECONDS:
                    raise DeploymentError(
                        f"client {name!r} is not let in: {error}; the server must have this "
                        f"client's key as clients/{name}.pub, and the client runs only once"
                    ) from None
                logger.warning(
                    "connecting again reason=%r hint=%r",
                    str(error),
                    f"if the server is up, its clients/{name}.pub may not be of this key",
                )
        time.sleep(_AGAIN_SECONDS)


def checks(base: str) -> Callable[[Message, Context], None]:
    """Return what looks at each message before it is answered.

    It raises `BaseModelError` where the server trains an adapter for another base model than that
    of digest `base`.
    """

    def check(message: Message, context: Context) -> None:
        config = message.content["config"]
        kind, round_number = message.metadata.message_type, int(config["round"])
        logger.info("message kind=%s round=%d", kind, round_number)
        theirs = str(config[BASE_KEY])
        if theirs != base:
            raise BaseModelError(
                f"the base model's weights are {base[:12]}..., the server's are {theirs[:12]}...; "
                "fetch the same model"
            )

    return check


def _answer_until_ended(worker: Worker, daemon: Daemon) -> None:
    """Answer messages until the SuperNode leaves the server by itself, with exit code 0.

    Raises:
        DeploymentError: If it ends otherwise.
    """
    while not daemon.has_left():
        try:
            is_answered = worker.answer_next()
        except httpx.TransportError:
            is_answered = False  # it starts or has ended; the next look at it tells which
        except httpx.HTTPStatusError as error:
            logger.warning("message not answered reason=%r", str(error))
            is_answered = False
        if not is_answered:
            time.sleep(_POLL_SECONDS)
