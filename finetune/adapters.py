"""The adapter folder: PEFT's two files and `motley.json`, the manifest that says what they are.

Other packages read the manifest as a file; this module owns its form. It imports no torch.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from finetune.config import AggregationName
from finetune.errors import AdapterFolderError
from finetune.updates import Tensors
from planner.config import StrictModel
from planner.documents import read_document

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "motley.json"


class ClientLosses(StrictModel):
    """How one client's held-out text is predicted without and with the adapter."""

    name: str
    """The client."""
    held_out_tokens: int = Field(gt=0)
    """Tokens scored."""
    base_loss: float
    """Of the base model, nats a token."""
    adapter_loss: float
    """Of the base model with the adapter, nats a token."""


class TrafficBytes(StrictModel):
    """Serialised bytes over all clients and rounds."""

    download_bytes: int = Field(ge=0)
    """To the clients, in rounds."""
    upload_bytes: int = Field(ge=0)
    """From them, in rounds; refused replies too."""
    judging_download_bytes: int = Field(ge=0)
    """To the clients, to judge the base model and the result."""
    judging_upload_bytes: int = Field(ge=0)
    """Their answers to that."""


class Manifest(StrictModel):
    """What an adapter was made on, and how."""

    schema_version: Literal[1] = 1
    """Version of this file's form."""
    base_model: str
    """Folder or hub id, as the job named it."""
    base_weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the base model's weights (`planner.model_folder.weights_sha256`)."""
    adapter_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of `adapter_model.safetensors`."""
    rank: int = Field(gt=0)
    """Rank of the factors."""
    alpha: float = Field(gt=0)
    """The product of the factors is scaled by alpha / rank."""
    target_modules: tuple[str, ...]
    """Modules that carry the adapter."""
    job: str
    """Name of the job."""
    method: AggregationName | Literal["local"] = "fedavg"
    """How the clients' adapters were made one; `local`: trained in one place."""
    rounds: int = Field(ge=0)
    """Rounds of training in it."""
    squeezed_from: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Digest of the adapter of higher rank that this one was cut from; null: none."""
    num_refused_updates: int = Field(ge=0)
    """Client updates that were refused on the way."""
    traffic: TrafficBytes | None = None
    """What the run sent."""
    clients: tuple[ClientLosses, ...]
    """The participants and their held-out losses; empty where it was squeezed, and judged by nobody."""


def write_adapter(
    folder: Path, *, config: dict[str, Any], weights: bytes, manifest: Manifest | None
) -> None:
    """Write an adapter folder under a temporary name, then rename it to `folder`.

    Args:
        folder: Must not exist; its parent must.
        config: Content of `adapter_config.json`.
        weights: Content of `adapter_model.safetensors`, from `weights_bytes`.
        manifest: Content of `motley.json`; None writes none.

    Raises:
        AdapterFolderError: If the disk does not take it.
    """
    try:
        _write_and_rename(folder, config=config, weights=weights, manifest=manifest)
    except OSError as error:
        raise AdapterFolderError(
            folder, f"cannot be written ({error.strerror}); make room and try again"
        ) from None


def _write_and_rename(
    folder: Path, *, config: dict[str, Any], weights: bytes, manifest: Manifest | None
) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        temporary.chmod(0o755)
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if manifest is not None:
            (temporary / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def weights_bytes(tensors: Tensors) -> bytes:
    """Return the tensors as PEFT writes them."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    data: bytes = save(arrays, metadata={"format": "pt"})
    return data


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_adapter(folder: Path) -> Manifest:
    """Check that a folder holds a complete adapter and return its manifest.

    Raises:
        AdapterFolderError: If a file is missing or the weights are not the manifest's.
        DocumentError: If the manifest is malformed.
    """
    if not folder.is_dir():
        raise AdapterFolderError(folder, "no such folder; name a run's `adapter` folder")
    for name in (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE):
        if not (folder / name).is_file():
            raise AdapterFolderError(
                folder, f"holds no {name}; name the `adapter` folder of a finished run"
            )
    manifest = read_document(folder / MANIFEST_FILE, Manifest)
    if digest((folder / WEIGHTS_FILE).read_bytes()) != manifest.adapter_sha256:
        raise AdapterFolderError(
            folder, f"{WEIGHTS_FILE} is not the file the manifest describes; copy the folder anew"
        )
    return manifest
