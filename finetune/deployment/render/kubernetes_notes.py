"""What stands beside the manifests: how the image is built, and what each site types."""

from collections.abc import Mapping

from finetune.config import JobConfig, JsonlData
from finetune.deployment.render.places import STATE, deployment_of

DOCKERFILE = """\
# docker build -t IMAGE -f Dockerfile CLONE_OF_MOTLEY
FROM python:3.12-slim
COPY . /motley
RUN pip install --no-cache-dir torch==2.13.0 && pip install --no-cache-dir '/motley[finetune]'
WORKDIR /motley
USER 1000
CMD ["motley", "--help"]
"""
"""Recipe of the image; torch comes first and pinned, so that no CUDA libraries are pulled."""

_README = """\
# Job {job} for Kubernetes

Rendered by `motley finetune render`. Clients reach the server at `{address}`, which must lead to
the Service `{server}`.

## The server's cluster

```
docker build -t {image} -f Dockerfile CLONE_OF_MOTLEY    # then push it where the clusters pull
motley finetune certs --output certs --host {host}{clients}
{server_secret}
kubectl apply -f server.yaml
kubectl logs -f job/{server}
```

## A client's cluster

```
{client_secrets}
```
{volumes}
Then `kubectl apply -f client-NAME.yaml`.

## To know

- A model of the hub is fetched into a pod's own cache; a local folder, such as `{model}` if it is
  one, must be in the image, at that path below /motley or absolute.
- The Job goes on after the last good round when its pod starts again; its volume holds the rounds.
- The adapter is in `{state}/run/adapter` on that volume.
"""


def readme(job: JobConfig, *, image: str, server: str, objects: Mapping[str, str]) -> str:
    """Return the notes.

    Args:
        job: With a deployment.
        image: Container image of Motley.
        server: Name of the server's objects.
        objects: Name of each client's objects, by client.
    """
    deployment = deployment_of(job)
    claims = [
        f"- {objects[client.name]}-data: holds `{client.data.path.name}`, the text of client "
        f"{client.name}."
        for client in job.clients
        if isinstance(client.data, JsonlData)
    ]
    volumes = ""
    if claims:
        volumes = "\nA client's text is on a PersistentVolumeClaim of its site:\n\n"
        volumes += "\n".join(claims) + "\n"
    return _README.format(
        job=job.name,
        address=deployment.address,
        host=deployment.host,
        server=server,
        image=image,
        clients="".join(f" --client {name}" for name in objects),
        server_secret=_secret(
            server,
            ["ca.crt", "server.crt", "server.key", *(f"clients/{name}.pub" for name in objects)],
        ),
        client_secrets="\n".join(
            _secret(object_name, ["ca.crt", f"clients/{name}.key"])
            for name, object_name in objects.items()
        ),
        volumes=volumes,
        model=job.model,
        state=STATE,
    )


def _secret(name: str, files: list[str]) -> str:
    words = "".join(f" --from-file=certs/{file}" for file in files)
    return f"kubectl create secret generic {name}{words}"
