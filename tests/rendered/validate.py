"""Validate rendered folders: run by `make check-rendered`, in the validators' own environment.

Kubernetes objects go through `kubernetes-validate`'s strict schemas, objects of other projects through
`crds.yaml`, SkyPilot's services through SkyPilot's parser, the compose file through the Compose
specification's schema as check-jsonschema carries it. Nothing here imports Motley.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES_VERSIONS = ("1.37", "1.30")
"""The newest the validator carries, and one that old clusters run."""

DEFINITIONS = {
    "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"},
    "labels": {
        "type": "object",
        "additionalProperties": {
            "type": "string",
            "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$",
        },
    },
    "texts": {"type": "object", "additionalProperties": {"type": "string"}},
    "port": {
        "type": "object",
        "required": ["number"],
        "additionalProperties": False,
        "properties": {"number": {"type": "integer", "minimum": 1, "maximum": 65535}},
    },
    "selector": {
        "type": "object",
        "required": ["matchLabels"],
        "additionalProperties": False,
        "properties": {"matchLabels": {"$ref": "#/$defs/labels"}},
    },
}
METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"$ref": "#/$defs/name"}, "labels": {"$ref": "#/$defs/labels"}},
}
"""What every object's name and labels must be; the schemas of Kubernetes do not say."""


def main(folder: Path) -> None:
    """Validate every target's folder below `folder`; the first problem ends with its message."""
    own = yaml.safe_load((Path(__file__).parent / "crds.yaml").read_text())
    counts = {"kubernetes": 0, "other projects": 0, "skypilot": 0, "compose": 0}
    for target in ("kubernetes", "llm-d", "federation"):
        for path in sorted((folder / target).rglob("*.yaml")):
            for document in yaml.safe_load_all(path.read_text()):
                kind = "HelmValues" if path.parent.name == "values" else document["kind"]
                try:
                    counts[_validate_object(document, kind, own)] += 1
                except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
                    sys.exit(f"{path}: {kind}: {'.'.join(map(str, error.path))}: {error.message}")
    for path in sorted((folder / "skypilot" / "services").glob("*.yaml")):
        _validate_service(path)
        counts["skypilot"] += 1
    _validate_compose(folder / "compose" / "compose.yaml")
    counts["compose"] += 1
    if not all(counts.values()):
        sys.exit(f"nothing of some kind was validated: {counts}")
    print("valid:", ", ".join(f"{number} {kind}" for kind, number in counts.items()))


def _validate_object(document: dict, kind: str, own: dict) -> str:
    if kind in own:
        schema = {"$defs": DEFINITIONS, "type": "object"} | own[kind]
        jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
    if kind != "HelmValues":
        schema = {"$defs": DEFINITIONS} | METADATA
        jsonschema.validate(document["metadata"], schema, cls=jsonschema.Draft202012Validator)
    if kind in own:
        return "other projects"
    for version in KUBERNETES_VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)
    for labels in _pod_labels(document):
        schema = {"$defs": DEFINITIONS, "$ref": "#/$defs/labels"}
        jsonschema.validate(labels, schema, cls=jsonschema.Draft202012Validator)
    return "kubernetes"


def _pod_labels(document: dict) -> Iterator[dict]:
    if document["kind"] == "Job":
        yield document["spec"]["template"]["metadata"]["labels"]
    if document["kind"] in ("StatefulSet", "Deployment"):
        labels = document["spec"]["template"]["metadata"]["labels"]
        yield labels
        wanted = document["spec"]["selector"]["matchLabels"]
        if not wanted.items() <= labels.items():
            sys.exit(f"{document['metadata']['name']}: the selector does not select its own pods")


def _validate_service(path: Path) -> None:
    import sky

    task = sky.Task.from_yaml(str(path))
    stated = yaml.safe_load(path.read_text())["service"]["replica_policy"]
    if task.service is None or task.service.min_replicas != stated["min_replicas"]:
        sys.exit(f"{path}: SkyPilot reads no service of {stated['min_replicas']} replicas")


def _validate_compose(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{path}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
