"""Kubernetes: the server as a Job behind a LoadBalancer, each client as a Job: it ends with the job.

TLS ends in the server's own process, so the balancer must pass TCP on as it is. Each site applies
its own file: the server's, or that of its client.
"""

import re
from pathlib import Path
from typing import Any

from finetune.config import JobConfig, JsonlData
from finetune.deployment.render.kubernetes_notes import DOCKERFILE, readme
from finetune.deployment.render.places import (
    CERTIFICATES,
    JOB_FILE,
    STATE,
    Files,
    client_job,
    client_words,
    deployment_of,
    remembers,
    server_job,
)
from finetune.errors import DeploymentError
from planner.loopback import is_loopback
from planner.render.text import yaml_text

SERVER = "motley-federation-server"
_DATA = Path("/data")
_OWNER_READS = 0o400
_USER = 1000


def render_kubernetes(job: JobConfig, *, image: str) -> Files:
    """Return manifests, the image's recipe and the notes.

    Raises:
        DeploymentError: If the job has no deployment, its address is loopback, or two clients'
            names are one for Kubernetes.
    """
    deployment = deployment_of(job)
    if is_loopback(deployment.host):
        raise DeploymentError(
            f"deployment.address: {deployment.address!r} is loopback; give the name or address by "
            "which the clients' clusters reach the server"
        )
    objects = _object_names(job)
    files = {
        "server.yaml": yaml_text(
            *_server(job, image), comment=f"motley finetune server, job {job.name}"
        ),
        "Dockerfile": DOCKERFILE,
        "README.md": readme(job, image=image, server=SERVER, objects=objects),
    }
    for name, object_name in objects.items():
        files[f"client-{name}.yaml"] = yaml_text(
            *_client(job, name, object_name, image),
            comment=f"motley finetune client --name {name}, job {job.name}",
        )
    return files


def _object_names(job: JobConfig) -> dict[str, str]:
    """Return each client's name in Kubernetes, which knows small letters, digits and dashes."""
    names: dict[str, str] = {}
    for client in job.clients:
        plain = re.sub(r"[^a-z0-9]+", "-", client.name.lower())[:40].strip("-")
        object_name = f"motley-federation-{plain}"
        if object_name in (SERVER, *names.values()):
            raise DeploymentError(
                f"clients: {client.name!r} is {plain!r} in Kubernetes, which is taken; rename it"
            )
        names[client.name] = object_name
    return names


def _server(job: JobConfig, image: str) -> tuple[dict[str, Any], ...]:
    port = deployment_of(job).port
    metadata = _metadata(job, SERVER, "federation-server")
    selector = {"app.kubernetes.io/instance": SERVER}
    items = [{"key": key, "path": key} for key in ("ca.crt", "server.crt", "server.key")]
    items += [
        {"key": f"{client.name}.pub", "path": f"clients/{client.name}.pub"}
        for client in job.clients
    ]
    container = _container(image, ["server", str(JOB_FILE)]) | {
        "ports": [{"name": "federation", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": "federation"}, "periodSeconds": 5},
    }
    pod = _pod(SERVER, container, items) | {"restartPolicy": "OnFailure"}
    pod["volumes"].append(_claimed(SERVER))
    claim = _claim(metadata, storage="10Gi")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "LoadBalancer",
            "selector": selector,
            "ports": [{"name": "federation", "port": port, "targetPort": "federation"}],
        },
    }
    # Each try goes on after the last good round.
    run = _job(metadata, pod, backoffLimit=20)
    # Loopback is not reached from outside the pod.
    return _configuration(metadata, server_job(job, listen="0.0.0.0")), claim, service, run


def _client(job: JobConfig, name: str, object_name: str, image: str) -> tuple[dict[str, Any], ...]:
    (client,) = [client for client in job.clients if client.name == name]
    metadata = _metadata(job, object_name, "federation-client")
    items = [
        {"key": "ca.crt", "path": "ca.crt"},
        {"key": f"{name}.key", "path": f"clients/{name}.key"},
    ]
    container = _container(image, client_words(job, name))
    pod = _pod(object_name, container, items) | {"restartPolicy": "OnFailure"}
    claims = []
    if remembers(job):
        # What it did not send yet must outlive the pod.
        claims = [_claim(metadata, storage="20Gi")]
        pod["volumes"].append(_claimed(object_name))
    else:
        pod["volumes"].append({"name": "state", "emptyDir": {}})
    if isinstance(client.data, JsonlData):
        container["volumeMounts"].append(
            {"name": "data", "mountPath": str(_DATA), "readOnly": True}
        )
        pod["volumes"].append(
            {
                "name": "data",
                "persistentVolumeClaim": {"claimName": f"{object_name}-data", "readOnly": True},
            }
        )
    # The server lets a key in once at a time; a client comes again for as long as the job goes on.
    run = _job(metadata, pod, backoffLimit=1000, podReplacementPolicy="Failed")
    return _configuration(metadata, client_job(job, name, data_folder=_DATA)), *claims, run


def _job(metadata: dict[str, Any], pod: dict[str, Any], **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": metadata["labels"]}, "spec": pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {**spec, "template": template},
    }


def _claim(metadata: dict[str, Any], *, storage: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": storage}},
        },
    }


def _claimed(name: str) -> dict[str, Any]:
    return {"name": "state", "persistentVolumeClaim": {"claimName": name}}


def _configuration(metadata: dict[str, Any], job_text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"job.yaml": job_text},
    }


def _metadata(job: JobConfig, name: str, component: str) -> dict[str, Any]:
    return {
        "name": name,
        "labels": {
            "app.kubernetes.io/name": "motley",
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/instance": name,
        },
        "annotations": {"motley/job": job.name},
    }


def _container(image: str, words: list[str]) -> dict[str, Any]:
    return {
        "name": "motley",
        "image": image,
        "command": ["motley", "finetune"],
        "args": words,
        "env": [{"name": "HF_HOME", "value": f"{STATE}/huggingface"}],
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "job", "mountPath": str(JOB_FILE), "subPath": "job.yaml"},
            {"name": "certificates", "mountPath": str(CERTIFICATES), "readOnly": True},
            {"name": "state", "mountPath": str(STATE)},
        ],
    }


def _pod(name: str, container: dict[str, Any], items: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": 60,
        "automountServiceAccountToken": False,
        # Secrets and volumes belong to the group, so that the image's own user reads them.
        "securityContext": {"runAsUser": _USER, "runAsNonRoot": True, "fsGroup": _USER},
        "containers": [container],
        "volumes": [
            {"name": "job", "configMap": {"name": name}},
            {
                "name": "certificates",
                "secret": {"secretName": name, "items": items, "defaultMode": _OWNER_READS},
            },
        ],
    }
