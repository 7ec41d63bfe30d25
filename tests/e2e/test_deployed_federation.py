"""A job on a real SuperLink and real SuperNodes, TLS and keys on, with clients that go wrong."""

import json
import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml
from child_processes import Child, free_port
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient

import motley
from finetune.adapters import read_adapter
from planner.demo.processes import motley_command

REPOSITORY = Path(__file__).parents[2]
CLIENTS = ("honest", "broken", "killed", "stranger")
DEADLINE_SECONDS = 270
PACKAGES = {"honest": "rich", "broken": "pulp", "killed": "httpx", "stranger": "yaml"}


@pytest.fixture
def job_file(tiny_family, tmp_path):
    """Write a two-round job of four clients on the shipped model; make its keys."""
    words = ["finetune", "certs", "--output", str(tmp_path / "certs")]
    assert motley.main([*words, *(word for name in CLIENTS for word in ("--client", name))]) == 0
    content = {
        "schema_version": 1,
        "name": "deployed",
        "model": str(tiny_family / "target"),
        "rank": 4,
        "alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "rounds": 2,
        "local_steps": 2,
        "batch_size": 2,
        "sequence_tokens": 64,
        "learning_rate": 0.005,
        "held_out_fraction": 0.15,
        "held_out_tokens": 512,
        "output": str(tmp_path / "run"),
        "clients": [
            {"name": name, "data": {"kind": "package", "name": PACKAGES[name]}} for name in CLIENTS
        ],
        "deployment": {
            "address": f"127.0.0.1:{free_port()}",
            "certificates": str(tmp_path / "certs"),
            "min_clients": 3,
            "wait_seconds": 200,
            "answer_seconds": 45,
        },
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def outsiders_are_refused(deployment: dict) -> None:
    """Check that who merely reaches the port can start no run, add no key, and take no task."""
    ca = (Path(deployment["certificates"]) / "ca.crt").read_bytes()
    link = (deployment["address"], False, ca, [])
    with ControlHttpClient.from_server_address(*link) as control:
        for call, request in (
            (control.StartRun, StartRunRequest()),
            (control.RegisterNode, RegisterNodeRequest(public_key=b"mine")),
            (control.ListNodes, ListNodesRequest()),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                call(request)
    with RuntimeHttpClient.from_server_address(*link) as runtime:
        for kind in ("flwr-serverapp", "flwr-clientapp"):
            with pytest.raises(httpx.HTTPStatusError, match="401"):
                runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
    address = f"https://{deployment['address']}/v1/control/start-run"
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.post(address, timeout=10)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_deployed_job_survives_clients_that_go_wrong(job_file, tmp_path):
    """A wrong key, NaN and a SuperNode killed in mid-round are refused; the job ends in time."""
    until = time.monotonic() + DEADLINE_SECONDS
    wrong = tmp_path / "others"
    assert motley.main(["finetune", "certs", "--output", str(wrong), "--client", "stranger"]) == 0
    key = tmp_path / "certs" / "clients" / "stranger.key"
    key.write_bytes((wrong / "clients" / "stranger.key").read_bytes())
    fault = [sys.executable, str(REPOSITORY / "tests" / "deployed_client.py"), str(job_file)]
    client = motley_command(["finetune", "client", str(job_file), "--name"])

    with ExitStack() as stack:
        server = Child(
            stack, motley_command(["finetune", "server", str(job_file)]), tmp_path / "server.log"
        )
        stranger = Child(stack, [*client, "stranger"], tmp_path / "stranger.log")
        honest = Child(stack, [*client, "honest"], tmp_path / "honest.log")
        broken = Child(stack, [*fault, "broken", "nan"], tmp_path / "broken.log")
        killed = Child(stack, [*fault, "killed", "slow"], tmp_path / "killed.log")

        server.wait_for("listening address=", until=until)
        outsiders_are_refused(yaml.safe_load(job_file.read_text())["deployment"])
        killed.wait_for(r"message kind=train round=1", until=until)
        node = int(killed.wait_for(r"SuperNode started pid=(\d+)", until=until)[1])
        os.kill(node, signal.SIGKILL)
        assert server.wait(until=until) == 0, server.output
        assert [child.wait(until=until) for child in (honest, broken)] == [0, 0]
        broken_output = broken.output
        pids = re.findall(
            r"Super(?:Node|Link) started pid=(\d+)",
            "".join(child.output for child in (server, stranger, broken, killed)),
        )

    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in metrics]
    assert len(rounds) == 2
    assert rounds[0]["loss"].keys() == {"honest"}
    assert rounds[0]["refused"].keys() == {"broken", "killed", "stranger"}
    assert "NaN" in rounds[0]["refused"]["broken"]
    assert rounds[0]["refused"]["killed"] == "gave no answer within 45 s"
    assert rounds[0]["refused"]["stranger"] == "is not connected"
    assert rounds[1]["refused"]["stranger"] == "is not connected"
    assert re.search(
        r"server refused the last reply client=\S+ reason='.* holds NaN", broken_output
    )
    assert "Failed to activate SuperNode" in stranger.output
    assert "message kind=" not in stranger.output
    assert "a client is not let in key=SHA256:" in server.output
    assert read_adapter(tmp_path / "run" / "adapter").rounds == 2
    assert len(pids) >= 6
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
