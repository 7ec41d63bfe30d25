"""Flower's two daemons as child processes, with everything off that calls outside or runs code.

The daemons only pass messages on: in Flower's isolation mode `process` the app runs in a process of
our own, which takes its tasks by the Runtime API (`flower_runtime.py`). So no process is made for a
message, no client runs code that came over the network, and the base model stays loaded.
Source: flwr 1.41, `flower-superlink --help`, `flower-supernode --help`.
"""

import os
import secrets
import socket
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from finetune.compatibility import conflict
from finetune.config import DeploymentConfig, JobConfig
from finetune.deployment.certificates import (
    CA_FILE,
    SERVER_FILE,
    SERVER_KEY_FILE,
    private_key_file,
)
from finetune.deployment.daemon import Daemon
from finetune.deployment.refused_keys import RefusedKeys
from finetune.errors import DeploymentError
from planner.loopback import is_loopback

SECRET_OPTION = "--superexec-auth-secret-file"
"""Flower's option with the file of the secret that acquiring a task asks for."""

_SUPERLINK = "from finetune.deployment.superlink_process import main; main()"
_SUPERNODE = (
    "import sys; sys.argv[0] = 'flower-supernode'; "
    "from flwr.supernode.cli import flower_supernode; flower_supernode()"
)
_SILENCE_SECONDS = 120
"""A SuperNode ends that has not reached the server for so long; Flower itself would wait in silence."""


@dataclass(frozen=True, slots=True)
class Link:
    """How this process reaches the Runtime API of its daemon on this machine.

    Attributes:
        address: HOST:PORT.
        ca: PEM of the CA that signed the daemon's certificate; None where it speaks plain HTTP.
        secret: What acquiring a task, and the SuperLink's Control API, ask for.
    """

    address: str
    ca: bytes | None
    secret: bytes = field(repr=False)


def check_deployment(
    job: JobConfig, *, insecure: bool, client: str | None = None
) -> DeploymentConfig:
    """Return the job's `deployment` block, which must be there and safe; before the slow work.

    Args:
        job: The whole job; some combinations run in one process only.
        insecure: Without TLS and keys.
        client: Whose key must be there; None for the server's certificate.

    Raises:
        DeploymentError: If it is missing, not on loopback although `insecure`, or lacks a file; or
            if the job has parts that do not run on several machines.
    """
    deployment = job.deployment
    if deployment is None:
        raise DeploymentError(
            "the job has no `deployment`; add one with address and certificates, see "
            "configs/finetune/deployed.yaml"
        )
    obstacle = conflict(job.parts(is_deployed=True, is_keyless=insecure))
    if obstacle is not None:
        raise DeploymentError(obstacle)
    for key, host in (("address", deployment.host), ("listen", deployment.bind_host)):
        if insecure and not is_loopback(host):
            raise DeploymentError(
                f"deployment.{key}: --insecure is for loopback only, {host!r} is not; make "
                "certificates with `motley finetune certs`"
            )
    folder = deployment.certificates
    own = [folder / SERVER_FILE, folder / SERVER_KEY_FILE]
    if client is not None:
        own = [private_key_file(folder, client)]
    for path in () if insecure else (folder / CA_FILE, *own):
        _file(path)
    return deployment


def start_superlink(
    deployment: DeploymentConfig, *, folder: Path, insecure: bool
) -> tuple[Daemon, Link]:
    """Start the SuperLink.

    Args:
        deployment: Where it listens.
        folder: A folder of this process alone, for its secret and Flower's own files.
        insecure: Without TLS and without authentication of clients.

    Raises:
        DeploymentError: If a certificate is missing, the port is taken, or it cannot be run.
    """
    _check_free(deployment.bind_host, deployment.port)
    words = ["--host", deployment.bind_host, "--port", str(deployment.port)]
    ca = None
    if insecure:
        words.append("--insecure")
    else:
        ca_file = _file(deployment.certificates / CA_FILE)
        words += ["--ssl-ca-certfile", str(ca_file), "--enable-supernode-auth"]
        words += ["--ssl-certfile", str(_file(deployment.certificates / SERVER_FILE))]
        words += ["--ssl-keyfile", str(_file(deployment.certificates / SERVER_KEY_FILE))]
        ca = ca_file.read_bytes()
    words += ["--isolation", "process", "--disable-runtime-dependency-installation"]
    secret = _write_secret(folder)
    words += [SECRET_OPTION, str(folder / "secret")]
    daemon = Daemon(
        "SuperLink",
        [sys.executable, "-P", "-c", _SUPERLINK, *words],
        _variables(folder),
        watch=RefusedKeys(),
    )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(deployment.bind_host, deployment.bind_host)
    return daemon, Link(_joined(host, deployment.port), ca, secret)


def start_supernode(
    deployment: DeploymentConfig, *, client: str, node_config: str, folder: Path, insecure: bool
) -> tuple[Daemon, Link]:
    """Start one client's SuperNode; its Runtime API is on loopback, at a free port.

    Args:
        deployment: Where the server is.
        client: Name of the client, whose key it shows.
        node_config: What every message's Context carries, in Flower's form.
        folder: A folder of this process alone, for its secret and Flower's own files.
        insecure: Without TLS and without a key.

    Raises:
        DeploymentError: If a file is missing or the program cannot be run.
    """
    port = _free_port()
    words = ["--superlink", deployment.address, "--host", "127.0.0.1", "--port", str(port)]
    if insecure:
        words.append("--insecure")
    else:
        words += ["--root-certificates", str(_file(deployment.certificates / CA_FILE))]
        key = _file(private_key_file(deployment.certificates, client))
        words += ["--auth-supernode-private-key", str(key)]
    secret = _write_secret(folder)
    words += ["--isolation", "process", SECRET_OPTION, str(folder / "secret")]
    words += ["--node-config", node_config, "--max-wait-time", str(_SILENCE_SECONDS)]
    daemon = Daemon(
        "SuperNode", [sys.executable, "-P", "-c", _SUPERNODE, *words], _variables(folder)
    )
    return daemon, Link(f"127.0.0.1:{port}", None, secret)


def _variables(folder: Path) -> dict[str, str]:
    return os.environ | {
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _write_secret(folder: Path) -> bytes:
    secret = secrets.token_hex(32).encode()
    path = folder / "secret"
    path.touch(mode=0o600)
    path.write_bytes(secret)
    return secret


def _file(path: Path) -> Path:
    if not path.is_file():
        raise DeploymentError(
            f"{path}: no such file; make it with `motley finetune certs`, or name the folder that "
            "holds it in deployment.certificates"
        )
    return path.resolve()


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DeploymentError(
                f"cannot listen on {_joined(host, port)} ({error.strerror}); free the port, or set "
                "deployment.address or deployment.listen"
            ) from None


def _free_port() -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
