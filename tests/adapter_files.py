"""Adapters as files: small valid folders, their multipart form, and bodies that come in pieces."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save

BOUNDARY = "----adapter"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
ALL_BASES = "0" * 64


def adapter_files(*, rank: int = 4, width: int = 8, **manifest: object) -> dict[str, bytes]:
    """Return the three files of an adapter that fits no model but is complete."""
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = save(
        {
            f"{name}.lora_A.weight": np.zeros((rank, width), np.float32),
            f"{name}.lora_B.weight": np.zeros((width, rank), np.float32),
        }
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": weights,
        "motley.json": manifest_of(weights, rank=rank, **manifest),
    }


def manifest_of(weights: bytes, **fields: object) -> bytes:
    """Return a manifest of these weights."""
    content = {
        "schema_version": 1,
        "base_weights_sha256": ALL_BASES,
        "adapter_sha256": hashlib.sha256(weights).hexdigest(),
        "rank": 4,
        "job": "toy",
    }
    return json.dumps(content | fields).encode()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write them into a new folder."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder that an upload may hold."""
    names = ("adapter_config.json", "adapter_model.safetensors", "motley.json")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def add_manifest(folder: Path, base_sha256: str, *, rank: int = 4) -> Path:
    """Write the manifest of a PEFT folder."""
    weights = (folder / "adapter_model.safetensors").read_bytes()
    content = manifest_of(weights, base_weights_sha256=base_sha256, rank=rank)
    (folder / "motley.json").write_bytes(content)
    return folder


def part(name: str, content: bytes) -> bytes:
    """Return one file of a form, with its boundary before it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(files: dict[str, bytes]) -> bytes:
    """Return a whole form."""
    parts = b"".join(part(name, content) for name, content in files.items())
    return parts + f"--{BOUNDARY}--\r\n".encode()


async def in_pieces(content: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    """Yield a body without a length."""
    for start in range(0, len(content), size):
        yield content[start : start + size]
