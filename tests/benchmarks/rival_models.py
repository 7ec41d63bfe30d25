"""The same weights for every contestant: float32 folders, and GGUF files made from them.

The 1B-shaped pair is random. Its draft is the target's first layers with the same embedding and
head; what the target's other layers add to the residual stream is scaled down until the two mostly
agree. All products are computed all the same, so costs are those of any model of this shape, and
acceptance is set, not earned.
"""

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.rival_environments import CACHE, RivalError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
MODELS = CACHE / "models"
_OTHER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Pair:
    """Folders of a target and its draft, in float32."""

    model: Path
    draft: Path


def tiny_pair() -> Pair:
    """Write the shipped family in float32."""
    folders = {}
    for role in ("target", "draft"):
        source = FAMILY / role
        digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()[:12]
        folder = folders[role] = MODELS / f"tiny-{role}-{digest}"
        if not (folder / ".ready").exists():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            model.save_pretrained(folder)
            _finish(folder)
    return Pair(folders["target"], folders["draft"])


def random_pair(config: LlamaConfig, *, draft_layers: int, agreement: float) -> Pair:
    """Write a random target of the shape and a draft of its first layers.

    Args:
        config: The target's shape; embedding and head are not tied.
        draft_layers: Layers of the draft.
        agreement: Factor on what the target's layers behind those add; 0 makes the two one model.
    """
    key = json.dumps([config.to_dict(), draft_layers, agreement], sort_keys=True, default=str)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    folders = [MODELS / f"random-{role}-{digest}" for role in ("target", "draft")]
    if not all((folder / ".ready").exists() for folder in folders):
        weights = _random_weights(config, draft_layers, agreement)
        draft = {name: w for name, w in weights.items() if _layer(name) < draft_layers}
        shapes = (config, LlamaConfig(**{**config.to_dict(), "num_hidden_layers": draft_layers}))
        for folder, shape, tensors in zip(folders, shapes, (weights, draft), strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            shape.architectures = ["LlamaForCausalLM"]
            shape.save_pretrained(folder)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            _finish(folder)
    return Pair(*folders)


def gguf(folder: Path, kind: str, python: Path) -> Path:
    """Write a float32 folder as GGUF with matrices of type `kind`: F32, Q8_0 or Q4_0.

    Raises:
        RivalError: If it cannot be written.
    """
    path = folder / f"model-{kind}.gguf"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        words = [str(python), str(Path(__file__).with_name("write_gguf.py")), str(folder), kind]
        done = subprocess.run([*words, str(unfinished)], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise RivalError(f"{folder.name} cannot be written as {kind}: {last[:200]}")
        unfinished.rename(path)
    return path


def _finish(folder: Path) -> None:
    """Add a tokenizer, which servers ask for and token ids do not use, and the mark of the end."""
    for name in _OTHER_FILES:
        shutil.copy(FAMILY / "target" / name, folder / name)
    (folder / ".ready").touch()


def _random_weights(config: LlamaConfig, draft_layers: int, agreement: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = LlamaForCausalLM(config).state_dict()
    weights = {}
    for name, shell in shapes.items():
        if "norm" in name:
            weights[name] = torch.ones(shell.shape)
            continue
        weights[name] = torch.empty(shell.shape).normal_(std=0.02, generator=generator)
        if draft_layers <= _layer(name) and ("o_proj" in name or "down_proj" in name):
            weights[name] *= agreement
    return weights


def _layer(name: str) -> int:
    """Return the layer a weight belongs to; -1 for embedding, head and last norm."""
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else -1
