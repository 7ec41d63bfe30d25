"""An adapter's folder, judged by its files before an engine reads it. No torch."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open

from planner.errors import DocumentError
from planner.model_folder import weights_sha256
from serving.adapter_manifest import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Manifest,
    check_base,
    check_files,
    read_json,
    read_manifest,
)
from serving.errors import AdapterError

logger = logging.getLogger(__name__)

FILES = (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE)
"""All that an adapter's folder may need; no pickle among them."""

BaseDigest = Callable[[], str | None]
"""Returns the digest of the served base weights; None where there is none to compare with."""


class _Config(BaseModel):
    """What is judged of PEFT's `adapter_config.json`."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    r: int = Field(gt=0)
    rank_pattern: dict[str, int] = {}

    @property
    def most_rank(self) -> int:
        """The largest rank of a module."""
        return max(self.r, *self.rank_pattern.values(), 0)


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What a folder says of itself, checked."""

    rank: int
    """Of the largest pair of matrices."""
    manifest: Manifest | None
    """None where there is no such file."""


def check_adapter(
    folder: Path,
    *,
    needs_manifest: bool = False,
    most_rank: int | None = None,
    base: BaseDigest | None = None,
) -> AdapterFacts:
    """Check that a folder holds an adapter that belongs together, and return its facts.

    Reads headers and, where there is a manifest, all weights once for their digest.

    Args:
        folder: A PEFT folder.
        needs_manifest: Whether one without `motley.json` is refused.
        most_rank: Largest rank taken; None sets no limit.
        base: Gives what the manifest's base model is compared with; None compares nothing.

    Raises:
        AdapterError: If it is none, or breaks one of these; one line says which, and what to do.
    """
    config = read_json(folder / CONFIG_FILE, _Config)
    if config.peft_type != "LORA":
        raise AdapterError(
            f"{folder}: is of peft_type {config.peft_type!r:.40}; only LoRA can be served"
        )
    rank = _weights_rank(folder / WEIGHTS_FILE)
    if rank > config.most_rank:
        raise AdapterError(
            f"{folder}: {WEIGHTS_FILE} has rank {rank}, {CONFIG_FILE} says {config.most_rank}; "
            "export it again"
        )
    if most_rank is not None:
        _check_rank(folder, config, most_rank)
    manifest = _check_manifest(folder, config, is_needed=needs_manifest)
    if manifest is not None and base is not None:
        check_base(folder, manifest, base())
    return AdapterFacts(rank, manifest)


def check_rank(folder: Path, most_rank: int) -> None:
    """Check nothing but the rank that a folder states; what else is wrong with it is the engine's.

    Raises:
        AdapterError: If it is above `most_rank`.
    """
    try:
        config = read_json(folder / CONFIG_FILE, _Config)
    except AdapterError:
        return
    _check_rank(folder, config, most_rank)


def base_digest(model: str) -> BaseDigest:
    """Return what gives the digest of a model's weights, computed once and when first asked for.

    It gives None, with a warning, where `model` is no folder with weights, as a hub id is none.
    """

    @cache
    def digest() -> str | None:
        try:
            return weights_sha256(Path(model))
        except DocumentError as error:
            logger.warning("adapters are not checked against the base model: %s", error)
            return None

    return digest


def _check_rank(folder: Path, config: _Config, most_rank: int) -> None:
    if config.most_rank > most_rank:
        raise AdapterError(
            f"{folder}: rank {config.most_rank} is above this endpoint's {most_rank}; train a "
            "smaller one, or start the endpoint with a larger --max-adapter-rank"
        )


def _check_manifest(folder: Path, config: _Config, *, is_needed: bool) -> Manifest | None:
    manifest = read_manifest(folder, is_needed=is_needed)
    if manifest is None:
        return None
    with (folder / WEIGHTS_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check_files(folder, manifest, rank=config.r, weights_sha256=digest)
    return manifest


def _weights_rank(path: Path) -> int:
    """Return the largest rank in a safetensors file; only its header is read."""
    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; only safetensors adapters load") from None
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise AdapterError(f"{path}: is no safetensors file ({reason}); export it again") from None
    ranks = [shape[0] for name, shape in shapes.items() if ".lora_A." in name and shape]
    if not ranks:
        raise AdapterError(f"{path}: holds no LoRA matrices; export it again")
    return int(max(ranks))
