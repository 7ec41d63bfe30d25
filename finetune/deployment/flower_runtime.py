"""The edge to Flower's Runtime API: a process beside a daemon takes its tasks.

In Flower's isolation mode `process` an executor acquires a daemon's tasks and runs them; Flower's
own is `flower-superexec`, which starts a program for each. `flower_run.py` and `flower_worker.py`
do it in their own process. These three use names that Flower does not promise to keep; with another
Flower they fail at import.
Source: flwr 1.41, `supercore/superexec/run_superexec.py`.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

from finetune.deployment.flower_processes import Link

logger = logging.getLogger(__name__)

COMPONENT = "motley finetune"
"""What we call ourselves to Flower, which compares versions."""

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


def is_up(link: Link) -> bool:
    """Whether the daemon answers; to be asked while it starts."""
    with closing(task_client(link)) as client:
        try:
            acquire(client, TaskType.SERVER_APP)
        except httpx.TransportError:
            return False
    return True


def task_client(link: Link) -> RuntimeHttpClient:
    """Return a client that may acquire tasks; the caller closes it."""
    lock = SuperExecAuthHttpInterceptor(master_secret=link.secret, protected_methods={_ACQUIRE})
    return _runtime(link, lock)


def token_client(link: Link, token: str) -> RuntimeHttpClient:
    """Return a client that speaks for one task; the caller closes it."""
    return _runtime(link, RuntimeTokenHttpInterceptor(token))


def acquire(client: RuntimeHttpClient, kind: TaskType) -> str:
    """Return the token of the oldest task of a kind; empty if none waits."""
    answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
    return str(answer.token) if answer.HasField("task") else ""


@contextmanager
def heartbeats(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell the daemon all the while that the task is being worked on.

    To be left before the task is reported as done, after which nobody may speak for it.
    """

    def beat() -> bool:
        try:
            is_known = client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
        except httpx.HTTPError as error:
            logger.warning("heartbeat failed, trying again reason=%r", str(error))
            return False
        if not is_known:
            logger.warning("the daemon has given this task up")
        return True

    sender = HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        if sender.is_running:
            sender.stop()


def _runtime(link: Link, *interceptors: Any) -> RuntimeHttpClient:
    versions = RuntimeVersionHttpInterceptor(component_name=COMPONENT)
    return RuntimeHttpClient.from_server_address(
        link.address, link.ca is None, link.ca, [versions, *interceptors]
    )
