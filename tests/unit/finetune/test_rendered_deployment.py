"""What `motley finetune render` writes, against the job it came from."""

from pathlib import Path

import pytest
import yaml

import motley
from finetune.config import JobConfig
from finetune.deployment.render.kubernetes import render_kubernetes
from finetune.deployment.render.systemd import render_systemd
from finetune.errors import DeploymentError

GOLDEN = Path(__file__).parents[2] / "golden" / "finetune"
CONTENT = {
    "schema_version": 1,
    "name": "three-hospitals",
    "model": "Qwen/Qwen2.5-0.5B-Instruct",
    "rank": 16,
    "alpha": 32,
    "target_modules": ["q_proj", "v_proj"],
    "rounds": 20,
    "local_steps": 50,
    "batch_size": 4,
    "sequence_tokens": 512,
    "learning_rate": 0.0005,
    "held_out_fraction": 0.1,
    "output": "runs/three-hospitals",
    "clients": [
        {"name": "north", "data": {"kind": "jsonl", "path": "/srv/texts/north.jsonl"}},
        {"name": "South_2", "data": {"kind": "jsonl", "path": "/srv/texts/south.jsonl"}},
        {"name": "demo", "data": {"kind": "package", "name": "rich"}},
    ],
    "deployment": {"address": "fl.example.org:9443", "certificates": "certs"},
}


def job(**changes):
    """Return the job with some keys changed."""
    return JobConfig.model_validate(CONTENT | changes)


def rendered():
    """Return every target's files."""
    return {
        "kubernetes": render_kubernetes(job(), image="motley-finetune:0.1.0"),
        "systemd": render_systemd(job()),
    }


def test_every_rendered_job_is_a_job():
    """A robust rule needs several clients, and no client's own file has more than one."""
    trust = {"robust": {"kind": "median", "num_attackers": 1}}
    texts = [
        text for name, text in render_systemd(job(trust=trust)).items() if name.endswith("job.yaml")
    ]
    assert len(texts) == 4
    for text in texts:
        JobConfig.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("target", ["kubernetes", "systemd"])
def test_golden_files(target):
    """Each target's files are, letter for letter, the reviewed ones.

    `python tests/unit/finetune/test_rendered_deployment.py` writes them anew.
    """
    folder = GOLDEN / target
    golden = {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert rendered()[target] == golden


def job_texts(target):
    """Return the job file of the server and of each client, as the target carries them."""
    files = rendered()[target]
    if target == "systemd":
        return {
            name.partition("/")[0]: text
            for name, text in files.items()
            if name.endswith("/job.yaml")
        }
    return {
        name.removesuffix(".yaml"): next(yaml.safe_load_all(text))["data"]["job.yaml"]
        for name, text in files.items()
        if name.endswith(".yaml")
    }


@pytest.mark.parametrize("target", ["kubernetes", "systemd"])
def test_each_machine_gets_its_own_job(target):
    """Every job file is valid; a client's knows no other client, and trains as the server's says."""
    texts = job_texts(target)
    assert texts.keys() == {"server", "client-north", "client-South_2", "client-demo"}
    whole = job()
    for name, text in texts.items():
        own = JobConfig.model_validate(yaml.safe_load(text))
        clients = [client.name for client in own.clients]
        assert clients == (
            ["north", "South_2", "demo"] if name == "server" else [name.removeprefix("client-")]
        )
        assert own.deployment.address == "fl.example.org:9443"
        for field in JobConfig.model_fields.keys() - {"clients", "output", "deployment"}:
            assert getattr(own, field) == getattr(whole, field)


def test_a_client_that_must_remember_is_told_where_and_its_place_outlives_it():
    """Its residual is on a volume of its own, or in the unit's state folder."""
    sparsity = {"download_density": 0.25, "upload_density": 0.1, "error_feedback": {}}
    files = render_kubernetes(job(sparsity=sparsity), image="x")
    _, claim, run = yaml.safe_load_all(files["client-South_2.yaml"])
    assert claim["kind"] == "PersistentVolumeClaim"
    pod = run["spec"]["template"]["spec"]
    assert claim["metadata"]["name"] in [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if volume["name"] == "state"
    ]
    assert pod["containers"][0]["args"][-2:] == ["--state", "/var/lib/motley/client"]
    units = render_systemd(job(sparsity=sparsity))
    unit = units["client-north/motley-federation-client-north.service"]
    assert "--name north --state /var/lib/motley/client\n" in unit
    assert not any("--state" in text for text in render_systemd(job()).values())


def test_a_clients_pod_is_not_started_again_when_the_job_is_done():
    """It is a Job, as the server's is; a Deployment would start it for ever."""
    for name, text in rendered()["kubernetes"].items():
        if name.endswith(".yaml"):
            (run,) = [each for each in yaml.safe_load_all(text) if each["kind"] == "Job"]
            assert run["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_a_secret_has_no_files_but_the_machines_own():
    """A client's pod mounts the CA and its key; the server's no private key of a client."""
    files = rendered()["kubernetes"]
    for name, text in files.items():
        for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            if document["kind"] != "Job":
                continue
            volumes = document["spec"]["template"]["spec"]["volumes"]
            (secret,) = [each["secret"] for each in volumes if "secret" in each]
            paths = {item["path"] for item in secret["items"]}
            if name == "server.yaml":
                assert not [path for path in paths if path.endswith(".key") and "/" in path]
            else:
                client = name.removeprefix("client-").removesuffix(".yaml")
                assert paths == {"ca.crt", f"clients/{client}.key"}


def test_kubernetes_needs_an_address_and_names_that_differ():
    """Loopback reaches no other cluster; names that are one in Kubernetes are told."""
    loopback = CONTENT["deployment"] | {"address": "127.0.0.1:9443"}
    with pytest.raises(DeploymentError, match="is loopback"):
        render_kubernetes(job(deployment=loopback), image="x")
    clients = [CONTENT["clients"][0] | {"name": name} for name in ("a_b", "a.b")]
    with pytest.raises(DeploymentError, match=r"clients: 'a.b' is 'a-b' in Kubernetes"):
        render_kubernetes(job(clients=clients), image="x")
    with pytest.raises(DeploymentError, match="the job has no `deployment`"):
        render_systemd(job(deployment=None))


def test_the_command_writes_a_new_folder_only(tmp_path, capsys):
    """It says where to begin, and refuses a folder that holds something."""
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(CONTENT))
    words = [
        "finetune",
        "render",
        str(file),
        "--target",
        "systemd",
        "--output",
        str(tmp_path / "o"),
    ]
    assert motley.main(words) == 0
    assert "9 files for systemd" in capsys.readouterr().out
    assert (tmp_path / "o" / "server" / "motley-federation-server.service").is_file()
    assert motley.main(words) == 2
    assert "is not empty" in capsys.readouterr().err
    assert motley.main([*words, "--force"]) == 0


if __name__ == "__main__":
    from planner.render.folder import write_folder

    for name, files in rendered().items():
        write_folder(GOLDEN / name, files, force=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"deployment": CONTENT["deployment"] | {"min_clients": 2}},
        {"scheduling": {"selection": {"kind": "uniform", "num_clients": 2}}},
    ],
)
def test_a_clients_file_is_read_whatever_the_server_asks_of_all(changes):
    """What counts clients is left out of a file that has one."""
    files = render_systemd(job(**changes))
    jobs = [text for path, text in files.items() if "north" in path and path.endswith("job.yaml")]
    assert jobs
    for text in jobs:
        assert len(JobConfig.model_validate(yaml.safe_load(text)).clients) == 1


def test_what_the_server_would_refuse_is_not_rendered():
    """Otherwise its pods would restart for ever."""
    secure = {"secure_sum": {"threshold": 2}, "clip_norm": 1.0}
    with pytest.raises(DeploymentError, match=r"deployment with trust\.secure_sum"):
        render_systemd(job(trust=secure))
