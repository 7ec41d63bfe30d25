"""The edge to Flower's Control and Runtime APIs at the SuperLink: nodes admitted, a run held.

Source: flwr 1.41, `cli/run/run.py`, `cli/supernode/register.py`, `superlink/runtime/run_serverapp.py`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from finetune.deployment.flower_processes import Link
from finetune.deployment.flower_runtime import (
    COMPONENT,
    acquire,
    heartbeats,
    task_client,
    token_client,
)
from finetune.errors import DeploymentError

logger = logging.getLogger(__name__)

_SILENCE_SECONDS = 30.0

APP = {
    "pyproject.toml": b"""\
[project]
name = "motley-finetune"
version = "1.0.0"
description = "Federated LoRA. Server and clients run the code that each of them has installed."
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "motley"

[tool.flwr.app.components]
serverapp = "finetune.flower:make_server_app"
clientapp = "finetune.flower:make_client_app"
"""
}
"""What Flower makes a run of. It holds no code, and neither component is loaded from it."""


class _Bearer:
    """Shows the secret of the server's process to the Control API."""

    def __init__(self, secret: bytes) -> None:
        self._header = f"Bearer {secret.decode()}"

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        context.request.headers["authorization"] = self._header
        return call_next(context)


def register_node(link: Link, *, name: str, public_key: bytes) -> int:
    """Let the node of this key take part, and return its id.

    Args:
        link: To the SuperLink.
        name: What Flower lists the node as.
        public_key: PEM, on a NIST curve.

    Raises:
        DeploymentError: If the SuperLink refuses the key.
    """
    with closing(_control(link)) as control, _told(f"the key of client {name!r}"):
        answer = control.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))
    return int(answer.node_id)


@contextmanager
def started_run(link: Link) -> Iterator[Grid]:
    """Start a run, be its ServerApp, and give its grid; leaving the context ends it.

    Raises:
        DeploymentError: If the SuperLink does not start it.
    """
    content, _ = build_fab_from_files(APP)
    fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
    with closing(_control(link)) as control, _told("the run"):
        run_id = control.StartRun(StartRunRequest(fab=fab)).run_id
    with closing(task_client(link)) as tasks:
        token = acquire(tasks, TaskType.SERVER_APP)
    if not token:
        raise DeploymentError(f"the SuperLink gives no task for run {run_id}; start it anew")
    with closing(token_client(link, token)) as client:
        started = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = started.task_id
        TaskIdentity.run_id = started.run.run_id
        TaskIdentity.node_id = started.context.node_id
        grid = HttpGrid(link.address, link.ca is None, link.ca, token=token)
        # Flower would try for ever to reach a SuperLink that has ended.
        grid._retry_invoker.max_time = _SILENCE_SECONDS
        grid.set_run(run_from_proto(started.run))
        status = SubStatus.FAILED
        try:
            with heartbeats(client):
                yield grid
            status = SubStatus.COMPLETED
        finally:
            _push_output(client, status)
            grid.close()


def _control(link: Link) -> ControlHttpClient:
    versions = RuntimeVersionHttpInterceptor(component_name=COMPONENT)
    return ControlHttpClient.from_server_address(
        link.address, link.ca is None, link.ca, [versions, _Bearer(link.secret)]
    )


def _push_output(client: RuntimeHttpClient, status: str) -> None:
    try:
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))
    except httpx.HTTPError as error:
        # The SuperLink ends in a moment, and its book of runs with it.
        logger.warning("run not marked as ended error=%r", str(error))


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise DeploymentError(
            f"the SuperLink refuses {what} ({' '.join(error.response.text.split())[:300]}); "
            "check its certificates and keys"
        ) from None
