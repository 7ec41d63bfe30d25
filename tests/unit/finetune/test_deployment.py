"""Where a deployment meets, and the child processes it is made of."""

import os
import signal
import socket
import sys
import time

import pytest
from pydantic import ValidationError

from finetune.config import DeploymentConfig, JobConfig
from finetune.deployment.client import default_state_folder
from finetune.deployment.daemon import Daemon
from finetune.deployment.flower_processes import check_deployment, start_superlink
from finetune.errors import DeploymentError

FAILS = """
print("\\x1b[91mERROR :     Exit Code: 305")
print("Failed to connect.")
print("[code: 2004] Not known.")
print("For more information, visit: <https://flower.ai/docs>")
print("INFO :      shutdown")
raise SystemExit(1)
"""


def deployment(**changes):
    """Return a deployment on loopback."""
    return DeploymentConfig(**{"address": "127.0.0.1:9443", "certificates": "certs"} | changes)


def job(where, **changes):
    """Return a job with that `deployment`."""
    content = {
        "schema_version": 1,
        "name": "toy",
        "model": "base",
        "rank": 2,
        "alpha": 4.0,
        "target_modules": ["q_proj"],
        "rounds": 1,
        "local_steps": 1,
        "batch_size": 1,
        "sequence_tokens": 8,
        "learning_rate": 0.1,
        "held_out_fraction": 0.5,
        "output": "run",
        "clients": [{"name": "north", "data": {"kind": "jsonl", "path": "north.jsonl"}}],
        "deployment": where and where.model_dump(),
    }
    return JobConfig.model_validate(content | changes)


@pytest.mark.parametrize(
    ("address", "host", "bind_host"),
    [
        ("127.0.0.1:9443", "127.0.0.1", "127.0.0.1"),
        ("localhost:9443", "localhost", "127.0.0.1"),
        ("[::1]:9443", "::1", "::1"),
        ("fl.example.org:9443", "fl.example.org", "0.0.0.0"),
        ("192.0.2.7:9443", "192.0.2.7", "0.0.0.0"),
    ],
)
def test_the_server_binds_no_more_than_it_must(address, host, bind_host):
    """Loopback stays loopback; another address binds all of the machine's."""
    where = deployment(address=address)
    assert (where.host, where.port, where.bind_host) == (host, 9443, bind_host)
    assert deployment(address=address, listen="192.0.2.1").bind_host == "192.0.2.1"


@pytest.mark.parametrize(
    "address", ["9443", "host", "https://host:1", "host:0", "host:65536", ":1"]
)
def test_an_address_is_a_host_and_a_port(address):
    """Anything else is refused when the job is read."""
    with pytest.raises(ValidationError, match="address"):
        deployment(address=address)


@pytest.mark.parametrize("changes", [{"address": "192.0.2.7:9443"}, {"listen": "0.0.0.0"}])
def test_without_keys_only_on_loopback(changes):
    """--insecure is refused for what others can reach, and TLS is not."""
    with pytest.raises(DeploymentError, match="--insecure is for loopback only"):
        check_deployment(job(deployment(**changes)), insecure=True)
    assert check_deployment(job(deployment()), insecure=True)
    with pytest.raises(DeploymentError, match="the job has no `deployment`"):
        check_deployment(job(None), insecure=False)


def test_parts_that_run_in_one_process_only_are_refused():
    """The job is fine for `motley finetune run`; the line names both parts."""
    trust = {"secure_sum": {"threshold": 2}, "clip_norm": 1.0}
    clients = [
        {"name": name, "data": {"kind": "jsonl", "path": "a.jsonl"}} for name in ("a", "b", "c")
    ]
    with pytest.raises(DeploymentError, match=r"deployment with trust\.secure_sum"):
        check_deployment(job(deployment(), trust=trust, clients=clients), insecure=True)


def test_a_job_that_remembers_its_clients_needs_their_keys():
    """Without keys anybody might be the client whose copy or residual is meant."""
    sparsity = {"download_density": 0.5, "upload_density": 0.5}
    assert check_deployment(job(deployment(), sparsity=sparsity), insecure=True)
    with pytest.raises(DeploymentError, match="--insecure with sparsity"):
        check_deployment(
            job(deployment(), sparsity=sparsity | {"error_feedback": {}}), insecure=True
        )


def test_a_clients_state_is_in_the_users_own_folder_by_default(monkeypatch, tmp_path):
    """By the job's name, below what the environment calls the state folder, or where it is usual."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_folder(job(None)) == tmp_path / "motley" / "finetune" / "toy"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_folder(job(None)) == tmp_path / ".local/state/motley/finetune/toy"


def test_a_taken_port_and_a_missing_certificate_are_told_before_a_process_starts(tmp_path):
    """One line each, with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DeploymentError, match=f"cannot listen on 127.0.0.1:{port}"):
            start_superlink(deployment(address=f"127.0.0.1:{port}"), folder=tmp_path, insecure=True)
    (tmp_path / "ca.crt").touch()
    where = deployment(certificates=tmp_path)
    with pytest.raises(DeploymentError, match=r"server.crt: no such file; make it with"):
        check_deployment(job(where), insecure=False)
    with pytest.raises(DeploymentError, match=r"clients/north.key: no such file"):
        check_deployment(job(where), insecure=False, client="north")


def daemon(code):
    """Start Python code as a daemon."""
    return Daemon("Thing", [sys.executable, "-c", code], os.environ)


def ended(process):
    """Wait until the daemon's check says how it ended."""
    for _ in range(200):
        process.check()
        time.sleep(0.05)


def test_a_daemon_that_fails_says_why():
    """Flower's exit message is the reason, without colours, links and what came after."""
    with daemon(FAILS) as process, pytest.raises(DeploymentError) as failure:
        ended(process)
    assert str(failure.value) == (
        "Thing ended with exit code 1: Failed to connect. [code: 2004] Not known"
    )


def test_a_daemon_that_leaves_in_order_is_no_failure():
    """It is seen to have left; where it must not leave, that is told too."""
    with daemon("") as process:
        with pytest.raises(DeploymentError, match="ended before its time"):
            ended(process)
        assert process.has_left()


def test_a_killed_daemon_is_told_by_its_signal():
    """The signal's number is in the line."""
    with daemon("import time; time.sleep(60)") as process:
        assert not process.has_left()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(DeploymentError, match="Thing was killed by signal 9"):
            ended(process)


def test_leaving_the_context_ends_the_daemon_and_its_children():
    """A child of the child in the same group is ended too."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('Exit Code: 0'); print(child.pid, flush=True); time.sleep(60)"
    )
    with daemon(code) as process:
        while not (told := process._cause()).isdigit():
            time.sleep(0.05)
        child = int(told)
        os.kill(child, 0)
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the child lives on")


def test_a_program_that_is_not_there_is_told():
    """The line names it and how to get it."""
    with pytest.raises(DeploymentError, match="Thing cannot be started"):
        Daemon("Thing", ["/nowhere/thing"], os.environ)
