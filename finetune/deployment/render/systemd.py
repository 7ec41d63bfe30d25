"""systemd: one unit and one job file a machine, the server's and each client's in its own folder."""

from finetune.config import JobConfig
from finetune.deployment.render.places import (
    CERTIFICATES,
    JOB_FILE,
    STATE,
    Files,
    client_job,
    client_words,
    deployment_of,
    server_job,
)

PROGRAM = "/opt/motley/bin/motley"

_UNIT = """\
# {path}
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target

[Service]
User=motley
ExecStart={command}
StateDirectory=motley
StateDirectoryMode=0700
UMask=0077
WorkingDirectory={state}
Environment=HF_HOME={state}/huggingface
Restart=on-failure
RestartSec=10
# A stop by SIGTERM ends the Flower process too, and is no failure.
SuccessExitStatus=143
KillMode=mixed
TimeoutStopSec=30
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only

[Install]
WantedBy=multi-user.target
"""

_README = """\
# Job {job} for systemd

Rendered by `motley finetune render`. The server is reached at `{address}`; `server/` is for its
machine, `client-NAME/` for the machine of that client.

## On each machine

```
python3 -m venv /opt/motley && /opt/motley/bin/pip install torch==2.13.0 'CLONE_OF_MOTLEY[finetune]'
useradd --system motley
install -D -m 0644 job.yaml {job_file}
install -d -m 0700 -o motley {certificates}      # then copy its keys, see below
install -m 0644 motley-*.service /etc/systemd/system/
systemctl daemon-reload && systemctl enable --now motley-*.service
journalctl -fu 'motley-*'
```

## Keys

`motley finetune certs --output certs{host}{clients}`

| machine | files below `{certificates}`, readable by the user motley alone |
|---|---|
| server | `ca.crt`, `server.crt`, `server.key`, `clients/*.pub` |
{rows}

`ca.key` stays with who made it; it signs the next server certificate.

## To know

- The base model `{model}` must be the same on every machine; a client whose weights differ is refused.
- A client reads its own text only, by the path in its `job.yaml`; nothing of it leaves the machine.
- The adapter is in `{state}/run/adapter` on the server. A client's service ends when the job is done.
"""


def render_systemd(job: JobConfig) -> Files:
    """Return the units, the job files and the notes.

    Raises:
        DeploymentError: If the job has no deployment.
    """
    deployment = deployment_of(job)
    names = [client.name for client in job.clients]
    files = {
        "README.md": _README.format(
            job=job.name,
            address=deployment.address,
            job_file=JOB_FILE,
            certificates=CERTIFICATES,
            host=f" --host {deployment.host}",
            clients="".join(f" --client {name}" for name in names),
            rows="\n".join(f"| client {name} | `ca.crt`, `clients/{name}.key` |" for name in names),
            model=job.model,
            state=STATE,
        ),
        "server/job.yaml": server_job(job, listen=None),
        "server/motley-federation-server.service": _unit(
            "motley-federation-server",
            f"Motley federation {job.name}: server",
            f"{PROGRAM} finetune server {JOB_FILE}",
        ),
    }
    for name in names:
        unit = f"motley-federation-client-{name}"
        files[f"client-{name}/job.yaml"] = client_job(job, name, data_folder=None)
        files[f"client-{name}/{unit}.service"] = _unit(
            unit,
            f"Motley federation {job.name}: client {name}",
            " ".join([PROGRAM, "finetune", *client_words(job, name)]),
        )
    return files


def _unit(name: str, description: str, command: str) -> str:
    return _UNIT.format(
        path=f"/etc/systemd/system/{name}.service",
        description=description,
        command=command,
        state=STATE,
    )
