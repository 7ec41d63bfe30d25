"""What both targets need of a job: whose file holds what, and where things are on each machine."""

from pathlib import Path
from typing import Any

from finetune.compatibility import conflict
from finetune.config import DeploymentConfig, JobConfig, JsonlData
from finetune.errors import DeploymentError
from planner.render.text import yaml_text

CERTIFICATES = Path("/etc/motley/certs")
JOB_FILE = Path("/etc/motley/job.yaml")
STATE = Path("/var/lib/motley")

Files = dict[str, str]
"""Path below the rendered folder to text."""


def deployment_of(job: JobConfig) -> DeploymentConfig:
    """Return the job's deployment.

    Raises:
        DeploymentError: If it has none, or combines what several machines cannot yet.
    """
    if job.deployment is None:
        raise DeploymentError("the job has no `deployment`; add one with address and certificates")
    obstacle = conflict(job.parts(is_deployed=True))
    if obstacle is not None:
        raise DeploymentError(obstacle)
    return job.deployment


def client_words(job: JobConfig, name: str) -> list[str]:
    """Return the words after `motley finetune` that run a client."""
    words = ["client", str(JOB_FILE), "--name", name]
    return [*words, "--state", str(STATE / "client")] if remembers(job) else words


def remembers(job: JobConfig) -> bool:
    """Whether a client must keep something on its disk from one round to the next."""
    return job.sparsity is not None and job.sparsity.remembers


def server_job(job: JobConfig, *, listen: str | None) -> str:
    """Return the server's job file, its certificates and run folder in their places."""
    deployment = deployment_of(job)
    changes: dict[str, Any] = {"certificates": CERTIFICATES}
    if listen is not None:
        changes["listen"] = listen
    changed = job.model_copy(
        update={
            "output": STATE / "run",
            "deployment": deployment.model_copy(update=changes),
        }
    )
    return _text(changed, comment="motley finetune server FILE")


def client_job(job: JobConfig, name: str, *, data_folder: Path | None) -> str:
    """Return one client's job file, without the other clients.

    Args:
        job: The whole job.
        name: The client.
        data_folder: Where its JSON lines are on its machine; None leaves the path as it is.
    """
    (client,) = [client for client in job.clients if client.name == name]
    if data_folder is not None and isinstance(client.data, JsonlData):
        data = client.data.model_copy(update={"path": data_folder / client.data.path.name})
        client = client.model_copy(update={"data": data})
    changes: dict[str, Any] = {"certificates": CERTIFICATES}
    if deployment_of(job).min_clients is not None:
        changes["min_clients"] = None
    changed = job.model_copy(
        update={
            "output": STATE / "run",
            "clients": (client,),
            "deployment": deployment_of(job).model_copy(update=changes),
        }
    )
    # What the server believes, and whom it asks when, is no matter of one client.
    words = f"motley finetune client FILE --name {name}"
    return _text(changed, comment=words, exclude={"trust", "scheduling"})


def _text(job: JobConfig, *, comment: str, exclude: set[str] | None = None) -> str:
    content = job.model_dump(mode="json", exclude_unset=True, exclude=exclude)
    return yaml_text(content, comment=comment)
