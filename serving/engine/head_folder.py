"""A head as a folder: `config.json`, `model.safetensors`, and `card.json`, the story of its training."""

import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from planner.documents import read_document, write_atomically
from planner.errors import DocumentError
from serving.engine.dovetail_head import DovetailHead
from serving.engine.head_config import HEAD_TYPE, HeadConfig
from serving.errors import ModelError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
HEAD_FILES = frozenset({CONFIG, WEIGHTS, "card.json", "README.md"})
"""What a head's folder holds, and all that a new one may replace."""


def is_head_folder(folder: Path) -> bool:
    """Whether `folder` says that it holds a head and no model."""
    try:
        return HEAD_TYPE in (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def refuse_foreign(folder: Path) -> None:
    """Check that writing a head to `folder` destroys nothing else.

    Raises:
        ModelError: If it is a file, or holds anything that is no file of a head.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder}: is a file; name a folder")
    held = {path.name for path in folder.iterdir()}
    if foreign := sorted(held - HEAD_FILES):
        raise ModelError(f"{folder}: also holds {foreign[0]!r}; move it, or name another folder")
    if CONFIG in held and not is_head_folder(folder):
        raise ModelError(f"{folder}: holds a model; name another folder")


def save_head(head: DovetailHead, folder: Path, *, texts: dict[str, str]) -> None:
    """Write the head, rounded to bfloat16, and its other files beside `folder`, then swap folders.

    Args:
        head: Left as it is.
        folder: Where; an older head there is replaced as a whole.
        texts: Content of `card.json` and `README.md`, by name.

    Raises:
        ModelError: If `folder` holds anything but a head.
    """
    folder = folder.resolve()
    refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / "head"
        made.mkdir()
        rounded = {
            name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
            for name, tensor in head.state_dict().items()
        }
        save_file(rounded, made / WEIGHTS, metadata={"format": "pt"})
        (made / WEIGHTS).chmod(0o644)
        write_atomically(made / CONFIG, head.config.model_dump_json(indent=1) + "\n")
        for name, text in texts.items():
            write_atomically(made / name, text)
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        made.rename(folder)


def load_head(
    folder: Path,
    *,
    target_sha256: str | None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DovetailHead:
    """Return the head of `folder`, in evaluation mode.

    Args:
        folder: A head's folder.
        target_sha256: Digest of the target's weights, see `weights_sha256`; None where it cannot be
            known, and the caller answers for the match.
        device: Where the head is to run.
        dtype: In which type.

    Raises:
        ModelError: If it is no head, not whole, malformed, or made for another target, or the device
            does not exist.
    """
    try:
        config = read_document(folder / CONFIG, HeadConfig)
        tensors = load_file(folder / WEIGHTS)
    except DocumentError as error:
        raise ModelError(f"{error}; name the folder of a head") from error
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{folder / WEIGHTS}: cannot be read ({reason}); train it again"
        ) from error
    if target_sha256 is not None and config.target_sha256 not in (None, target_sha256):
        raise ModelError(
            f"{folder}: was trained for a target with weights {str(config.target_sha256)[:12]}, this "
            f"one has {target_sha256[:12]}; run `motley serve train-draft` for this target"
        )
    head = DovetailHead(config)
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        name = wrong[0]
        raise ModelError(
            f"{folder / WEIGHTS}: {name} is {found.get(name, 'missing')}, the configuration asks for "
            f"{expected.get(name, 'none')}; train it again"
        )
    head.load_state_dict(tensors)
    head.train(mode=False).requires_grad_(requires_grad=False)
    try:
        return head.to(device, dtype)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{folder}: cannot be put on {device} ({reason}); name another") from error
