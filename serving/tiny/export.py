"""Writing and loading one model of the family as an ordinary Hugging Face folder."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from serving.tiny.card import ShippedFile

WEIGHTS = "model.safetensors"


def export_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, folder: Path
) -> None:
    """Write configuration, bfloat16 weights, tokenizer and chat template into a new `folder`.

    The model itself is left as it is.
    """
    rounded = LlamaForCausalLM(model.config).bfloat16()
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / WEIGHTS).chmod(0o644)


def load_model(folder: Path) -> LlamaForCausalLM:
    """Return the model of `folder` in float32 and evaluation mode; its values are the rounded ones."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    model.train(mode=False)
    return model


def shipped_files(folder: Path) -> Iterator[ShippedFile]:
    """Yield every file below `folder`, sorted by path."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            yield ShippedFile(
                path=path.relative_to(folder).as_posix(),
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
