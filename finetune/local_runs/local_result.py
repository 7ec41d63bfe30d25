"""What a finished local run leaves: an adapter folder, or a folder of transformers with a tokenizer."""

import shutil
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from finetune.adapters import ClientLosses, Manifest, digest, weights_bytes, write_adapter
from finetune.base_model import BaseModel
from finetune.errors import RunFolderError
from finetune.local_runs.local_folder import LocalResult
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.ranks import Ranks, on_rank_zero
from finetune.local_runs.trained_model import trained_weights, whole
from finetune.lora import peft_config


def write_result(
    folder: Path,
    model: nn.Module,
    base: BaseModel,
    job: LocalJob,
    result: LocalResult,
    ranks: Ranks,
) -> None:
    """Write the result folder, unless an interrupted run did; all ranks must call, rank 0 writes.

    Raises:
        FinetuneError: If the disk does not take it.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in trained_weights(model):
        full = whole(weight)
        if ranks.rank == 0:
            tensors[name] = full

    def write() -> None:
        if folder.exists():
            return
        if isinstance(model, PeftModel):
            _write_adapter(folder, model, tensors, base, job, result)
        else:
            _write_model(folder, tensors, base)

    on_rank_zero(ranks, write)


def _write_adapter(
    folder: Path,
    model: PeftModel,
    tensors: dict[str, Tensor],
    base: BaseModel,
    job: LocalJob,
    result: LocalResult,
) -> None:
    assert job.adapter is not None  # the model has one
    named = get_peft_model_state_dict(model, state_dict=tensors, save_embedding_layers=False)
    weights = weights_bytes({name: tensor.numpy() for name, tensor in named.items()})
    manifest = Manifest(
        base_model=job.model,
        base_weights_sha256=base.weights_sha256,
        adapter_sha256=digest(weights),
        rank=job.adapter.rank,
        alpha=job.adapter.alpha,
        target_modules=job.adapter.target_modules,
        job=job.name,
        method="local",
        rounds=1,
        num_refused_updates=0,
        clients=(
            ClientLosses(
                name=job.name,
                held_out_tokens=result.held_out_tokens,
                base_loss=result.base_loss,
                adapter_loss=result.loss,
            ),
        ),
    )
    config = peft_config(model, base=job.model)
    write_adapter(folder, config=config, weights=weights, manifest=manifest)


def _write_model(folder: Path, tensors: dict[str, Tensor], base: BaseModel) -> None:
    """Write the weights in float32, as they were trained, under a temporary name; then rename.

    A model loaded anew takes them: in the trained one, ranks may hold shares.
    """
    fresh = AutoModelForCausalLM.from_pretrained(
        base.folder, dtype=torch.float32, local_files_only=True
    )
    with torch.no_grad():
        for name, weight in fresh.named_parameters():
            weight.copy_(tensors[name])
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        temporary.chmod(0o755)
        fresh.save_pretrained(temporary)
        base.tokenizer.save_pretrained(temporary)
        for file in temporary.iterdir():  # whoever serves the model may be another user
            file.chmod(0o644)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunFolderError(
            folder, f"cannot be written ({error.strerror}); make room and run again"
        ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
