"""The checkpoint of a local run: what is trained, the optimiser's moments, the steps behind them.

Nothing of the generators stands in it: those of a step are seeded by its number.
"""

import os
import tempfile
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from finetune.errors import RunFolderError
from finetune.local_runs.ranks import Ranks, on_rank_zero
from finetune.local_runs.trained_model import set_weight, spread_as, trained_weights, whole
from planner.config import StrictModel

_WEIGHT, _STATE = "weight/", "adamw/"


class CheckpointHeader(StrictModel):
    """What a checkpoint says beside its tensors; stands in the file's own metadata."""

    schema_version: Literal[1] = 1
    """Version of the checkpoint's form."""
    completed_steps: int
    """Steps that are in the tensors."""
    base_weights_sha256: str
    """Digest of the base model the run began with."""
    text_sha256: str
    """Digest of the sequences trained on and judged by."""
    base_loss: float
    """Held-out loss of the base model, nats a token."""
    held_out_tokens: int
    """Tokens it was judged by."""


def read_header(path: Path) -> CheckpointHeader | None:
    """Return what a checkpoint is of, None where there is none.

    Raises:
        RunFolderError: If it is damaged.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return CheckpointHeader.model_validate_json((file.metadata() or {})["header"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise _damaged(path, error) from None


def save(
    path: Path,
    header: CheckpointHeader,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    ranks: Ranks,
) -> None:
    """Replace the checkpoint; all ranks must call, and rank 0 writes.

    Raises:
        RunFolderError: If the disk does not take it.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(model, optimiser):
        full = whole(tensor)
        if ranks.rank == 0:
            tensors[name] = full.contiguous()
    on_rank_zero(ranks, lambda: write_checkpoint(path, tensors, header))


def write_checkpoint(path: Path, tensors: dict[str, Tensor], header: CheckpointHeader) -> None:
    """Replace the checkpoint by these tensors; none where no step has changed any.

    Raises:
        RunFolderError: If the disk does not take it.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        save_file(tensors, name, metadata={"header": header.model_dump_json()})
        Path(name).replace(path)
    except (SafetensorError, OSError) as error:
        Path(name).unlink(missing_ok=True)
        raise RunFolderError(
            path.parent, f"the checkpoint cannot be written ({error}); make room and run again"
        ) from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks) -> None:
    """Set model and optimiser to what rank 0 reads of a checkpoint; all ranks must call.

    Raises:
        RunFolderError: If it is damaged.
    """
    states = ranks.share(on_rank_zero(ranks, lambda: _names(path)))
    assert states is not None  # rank 0 has named them
    for name, weight in trained_weights(model):
        set_weight(weight, _shared(path, _WEIGHT + name, weight, ranks))
        state = optimiser.state[weight]
        for key in states.get(name, ()):
            pattern = torch.zeros(()) if key == "step" else weight
            full = _shared(path, f"{_STATE}{key}/{name}", pattern, ranks)
            state[key] = spread_as(full, pattern.detach()).clone()


def _tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    """Return every tensor by its name in the file, in an order that all ranks have."""
    found: list[tuple[str, Tensor]] = []
    for name, weight in trained_weights(model):
        found.append((_WEIGHT + name, weight))
        state = optimiser.state.get(weight, {})
        found.extend((f"{_STATE}{key}/{name}", state[key]) for key in sorted(state))
    return found


def _names(path: Path) -> dict[str, list[str]]:
    """Return the keys of the optimiser's state by the weight's name."""
    keys: dict[str, list[str]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                if name.startswith(_STATE):
                    key, _, weight = name.removeprefix(_STATE).partition("/")
                    keys.setdefault(weight, []).append(key)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    return {weight: sorted(found) for weight, found in keys.items()}


def _shared(path: Path, name: str, pattern: Tensor, ranks: Ranks) -> Tensor:
    """Return a tensor that rank 0 reads, whole, on every rank."""
    full = torch.empty(pattern.shape, dtype=pattern.dtype, device=ranks.device)

    def read() -> None:
        try:
            with safe_open(path, framework="pt") as file:
                full.copy_(file.get_tensor(name))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise _damaged(path, error) from None

    on_rank_zero(ranks, read)
    ranks.share_tensor(full)
    return full


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        path.parent, f"the checkpoint is damaged ({type(error).__name__}); start a new run"
    )
