"""A client's side of a deployed job: a SuperNode beside this process, the base model in it.

One process holds the base model and the client's tokens for as long as the client takes part; each
message of the server is answered by it. It ends when the server says that the job is done.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

import httpx
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from finetune.config import ClientConfig, DeploymentConfig, JobConfig
from finetune.deployment.daemon import Daemon
from finetune.deployment.flower_processes import check_deployment, start_supernode
from finetune.deployment.flower_worker import Worker
from finetune.deployment.grid_clients import BASE_KEY, END_KIND
from finetune.deployment.observer import LogObserver
from finetune.errors import BaseModelError, DeploymentError
from finetune.federation import Start, client_group, load, local_trainer, seeded_of
from finetune.flower import CLIENT_KEY, SparseEnd, Trainer, make_client_app
from finetune.sparsity.client import SparseClients
from finetune.sparsity.ends import first_copy, sparse_layout
from finetune.sparsity.kept_clients import KeptClients, StateFolder
from finetune.updates import Tensors

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_AGAIN_SECONDS = 10.0
_UNREACHED_SECONDS = 60.0
"""A SuperNode that ran so long and answered nothing did not reach the server; a refusal is quick."""
_LAST_ANSWER_SECONDS = 3.0
"""How long the SuperNode is left to pass the last answer on."""
_REFUSED_SECONDS = 75.0
"""How long a client that the server does not let in tries again. Flower 1.41 gives no reason: the
key may be wrong, not read yet, or still connected for the 60 s that a killed SuperNode is missed."""


class MakeTrainer(Protocol):
    """Makes a client's trainer, and says what the job begins with."""

    def __call__(self, job: JobConfig, client: ClientConfig) -> tuple[Trainer, Start]:
        """Return the trainer, and the start that this client makes from the job."""


def make_trainer(job: JobConfig, client: ClientConfig) -> tuple[Trainer, Start]:
    """Load the base model and read the client's text.

    Raises:
        FinetuneError: If model or text do not serve.
    """
    observer = LogObserver()
    base, model, start = load(job, observer)
    group = client_group(model, job)
    return local_trainer(job, client, base, model, observer, group), start


def default_state_folder(job: JobConfig) -> Path:
    """Return where a job's clients keep their state if they are not told: in the user's own folder.

    Source: XDG Base Directory Specification 0.8, `XDG_STATE_HOME`.
    """
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "motley" / "finetune" / job.name


def run_client(
    job: JobConfig,
    *,
    name: str,
    insecure: bool,
    state: Path | None = None,
    make_trainer: MakeTrainer = make_trainer,
) -> None:
    """Take part in a job as one of its clients until it is done.

    The server may end, and start again: the SuperNode then connects anew. A client that is away when
    the job ends does not learn it, and waits for the server until it is stopped.

    Args:
        job: What to do, with a `deployment`; of the clients' data this one's alone is read.
        name: Which of the job's clients this is.
        insecure: Without TLS and keys; on loopback only.
        state: Folder of what the client must remember between rounds, if the job asks for that;
            by default `default_state_folder`.
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
    folder = StateFolder(state or default_state_folder(job))
    if job.sparsity is not None and job.sparsity.remembers:
        folder.prepare()
    trainer, start = make_trainer(job, clients[name])
    app = make_client_app(
        lambda _: trainer,
        sparse=sparse_end(job, start.first_tensors, folder),
        identity_of=lambda _: start.identity,
        judge_every=job.judge_every,
        seeded=seeded_of(job, start.first_tensors),
    )
    ending = Ending(app)
    session = _Session(deployment, name, app, ending, checks(start.base_weights_sha256))
    while not session.run(insecure=insecure):
        time.sleep(_AGAIN_SECONDS)
    logger.info("the job is done client=%s", name)


class _Session:
    """A client's connections to the server, one after the other."""

    def __init__(
        self,
        deployment: DeploymentConfig,
        name: str,
        app: ClientApp,
        ending: "Ending",
        before: Callable[[Message, Context], None],
    ) -> None:
        self._deployment, self._name = deployment, name
        self._app, self._ending, self._before = app, ending, before
        self._refused_since: float | None = None

    def run(self, *, insecure: bool) -> bool:
        """Take part until the server ends; return whether the job is done.

        Raises:
            DeploymentError: If the server does not let the client in.
        """
        started, name = time.monotonic(), self._name
        with tempfile.TemporaryDirectory(prefix="motley-") as scratch:
            daemon, link = start_supernode(
                self._deployment,
                client=name,
                node_config=f'{CLIENT_KEY}="{name}"',
                folder=Path(scratch),
                insecure=insecure,
            )
            logger.info("taking part client=%s server=%s", name, self._deployment.address)
            worker = Worker(link, self._app, before=self._before)
            try:
                with daemon, closing(worker):
                    _answer_until_ended(worker, daemon, self._ending)
            except DeploymentError as error:
                if not self._ending.has_come:
                    self._note(error, started=started, num_answered=worker.num_answered)
        return self._ending.has_come

    def _note(self, error: DeploymentError, *, started: float, num_answered: int) -> None:
        """Log why a connection ended; give up where the server has refused the key for too long."""
        now = time.monotonic()
        if num_answered or now - started > _UNREACHED_SECONDS:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = started
        elif now - self._refused_since > _REFUSED_SECONDS:
            raise DeploymentError(
                f"client {self._name!r} is not let in: {error}; the server must have this "
                f"client's key as clients/{self._name}.pub, and the client runs only once"
            ) from None
        logger.warning(
            "connecting again reason=%r hint=%r",
            str(error),
            f"if the server is up, its clients/{self._name}.pub may not be of this key",
        )


class Ending:
    """Whether the server has said that the job is done."""

    def __init__(self, app: ClientApp) -> None:
        """Have `app` answer the message that says it."""
        self.has_come = False

        def end(message: Message, context: Context) -> Message:
            self.has_come = True
            name = ConfigRecord({CLIENT_KEY: str(context.node_config[CLIENT_KEY])})
            return Message(RecordDict({"config": name}), reply_to=message)

        app.query(END_KIND.removeprefix("query."))(end)


def sparse_end(job: JobConfig, first: Tensors, folder: StateFolder) -> SparseEnd | None:
    """Return this client's end of a sparse job, None where the whole adapter travels.

    Args:
        job: Says what travels.
        first: The adapter that the job begins with.
        folder: Where the client's state is, if it must remember something.
    """
    sparsity = job.sparsity
    if sparsity is None:
        return None
    seeded = seeded_of(job, first)
    layout = sparse_layout(first, seeded)
    if not sparsity.remembers:
        return SparseClients(layout, sparsity, seeded=seeded)
    kept = first_copy(layout, first, sparsity)
    return KeptClients(layout, sparsity, folder, first=kept, seeded=seeded)


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


def _answer_until_ended(worker: Worker, daemon: Daemon, ending: Ending) -> None:
    """Answer messages until the job is done, or the SuperNode leaves by itself with exit code 0.

    Raises:
        DeploymentError: If it ends otherwise.
    """
    done_at: float | None = None
    while True:
        if daemon.has_left():
            logger.warning("the server was started anew, connecting again")
            return
        if ending.has_come and done_at is None:
            done_at = time.monotonic()
        if done_at is not None and time.monotonic() - done_at > _LAST_ANSWER_SECONDS:
            return
        try:
            is_answered = worker.answer_next()
        except httpx.TransportError:
            is_answered = False  # it starts or has ended; the next look at it tells which
        except httpx.HTTPStatusError as error:
            logger.warning("message not answered reason=%r", str(error))
            is_answered = False
        if not is_answered:
            time.sleep(_POLL_SECONDS)
