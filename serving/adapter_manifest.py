"""An adapter's files, and its manifest compared with them and with the base model served.

The manifest's form is the one `motley finetune` writes; it is read here as a file. No torch.
"""

import logging
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from planner.documents import read_document
from planner.errors import DocumentError
from serving.errors import AdapterError

logger = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "motley.json"
MANIFEST_VERSION = 1

_Model = TypeVar("_Model", bound=BaseModel)


class Manifest(BaseModel):
    """What is judged of `motley.json`."""

    model_config = ConfigDict(extra="ignore")

    schema_version: int
    base_weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    adapter_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rank: int = Field(gt=0)
    job: str = Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")
    """The job it comes from, safe in log lines."""


def read_manifest(folder: Path, *, is_needed: bool = False) -> Manifest | None:
    """Read an adapter's manifest; None, with a warning, where the folder has none.

    Raises:
        AdapterError: If it is malformed, or missing although `is_needed`.
    """
    path = folder / MANIFEST_FILE
    if not path.exists() and not is_needed:
        logger.warning("adapter has no manifest, its base model is not checked folder=%s", folder)
        return None
    manifest = read_json(path, Manifest)
    if manifest.schema_version != MANIFEST_VERSION:
        raise AdapterError(
            f"{path}: schema_version {manifest.schema_version} is unknown; "
            f"this version reads {MANIFEST_VERSION}"
        )
    return manifest


def check_files(folder: Path, manifest: Manifest, *, rank: int, weights_sha256: str) -> None:
    """Check that a manifest tells of the files beside it.

    Raises:
        AdapterError: If they have another rank or digest.
    """
    if manifest.rank != rank:
        raise AdapterError(
            f"{folder}: {MANIFEST_FILE} says rank {manifest.rank}, {CONFIG_FILE} {rank}; "
            "copy the folder anew"
        )
    if manifest.adapter_sha256 != weights_sha256:
        raise AdapterError(
            f"{folder}: {WEIGHTS_FILE} is not the file its {MANIFEST_FILE} describes; copy the "
            "folder anew"
        )


def check_base(folder: Path, manifest: Manifest, served_sha256: str | None) -> None:
    """Check that an adapter was trained on the weights served; a warning where they have no digest.

    Raises:
        AdapterError: If it was trained on others.
    """
    if served_sha256 is None:
        logger.warning("adapter not checked against the base model folder=%s", folder)
    elif manifest.base_weights_sha256 != served_sha256:
        raise AdapterError(
            f"{folder}: was trained on base weights {manifest.base_weights_sha256[:12]}..., this "
            f"endpoint serves {served_sha256[:12]}...; load an adapter made for this base model"
        )


def read_json(path: Path, model: type[_Model]) -> _Model:
    """Read one of an adapter's JSON files.

    Raises:
        AdapterError: If it is missing or malformed; one line says how.
    """
    try:
        return read_document(path, model)
    except DocumentError as error:
        raise AdapterError(str(error)[:400]) from None
    except ValueError as error:  # a path that no file system has
        raise AdapterError(f"{str(path)[:80]!r} is no path ({error})"[:200]) from None
