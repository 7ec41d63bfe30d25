"""The frozen target as training sees it: features of text, embedding, head, and what they are of."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from planner.model_folder import incomplete_weights, weights_sha256
from serving.draft_training.recipe import HeadRecipe
from serving.engine.head_config import HeadConfig
from serving.errors import ModelError

logger = logging.getLogger(__name__)


def autocast(device: torch.device) -> torch.autocast:
    """Return bfloat16 autocast where the device multiplies it natively, else a no-op."""
    is_native = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=is_native)


@dataclass(frozen=True, slots=True)
class FrozenTarget:
    """A model whose weights stay, and the digest of its files."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str

    @classmethod
    def load(cls, name: str, *, device: str) -> "FrozenTarget":
        """Load a local folder or a hub id in float32.

        Raises:
            ModelError: If it cannot be loaded or its weights are not whole.
        """
        if not Path(name).is_dir() and (name.startswith((".", "/")) or name.count("/") != 1):
            raise ModelError(f"{name!r}: no such model folder; give a local folder or a hub id")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=torch.float32,
                device_map={"": device},
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, with their names
            )
            folder = Path(str(cached_file(name, "config.json"))).parent
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{name}: cannot be loaded ({reason}); check the model") from error
        model, report = loaded  # what loading information adds to the library's declared type
        if wrong := incomplete_weights(report):
            raise ModelError(f"{name}: its weights are not whole: {wrong}; fetch the model again")
        model.train(mode=False).requires_grad_(requires_grad=False)
        return cls(model, tokenizer, weights_sha256(folder))

    @property
    def embedding(self) -> Tensor:
        """The embedding's weight. Shape: (V, E)."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return weight

    @property
    def output_head(self) -> Tensor:
        """The head's weight. Shape: (V, E)."""
        weight: Tensor = self.model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        return weight

    @torch.inference_mode()
    def features(self, ids: Tensor) -> Tensor:
        """Return the last hidden states after the final norm. Shapes: (n,) to (n, E)."""
        batch = ids.unsqueeze(0).to(self.device)
        output = self.model.base_model(input_ids=batch, use_cache=False)
        states: Tensor = output.last_hidden_state[0]
        return states

    def coarse_features(self, ids: Tensor) -> Tensor:
        """Return what `features` does, in bfloat16 where that is quicker: good enough to train on."""
        with autocast(self.device):
            return self.features(ids)

    @property
    def device(self) -> torch.device:
        """Where the target is."""
        return self.embedding.device

    def head_config(self, recipe: HeadRecipe) -> HeadConfig:
        """Return the shape of a head for this target."""
        config = self.model.config.get_text_config()
        num_heads = recipe.num_heads or config.num_attention_heads
        theirs = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rope = getattr(config, "rope_parameters", None) or {}
        return HeadConfig(
            feature_size=config.hidden_size,
            vocabulary_size=len(self.output_head),
            width=recipe.width or config.hidden_size,
            num_layers=recipe.num_layers,
            intermediate_size=recipe.intermediate_size or config.intermediate_size,
            num_heads=num_heads,
            num_key_value_heads=recipe.num_key_value_heads or theirs,
            head_size=size,
            rope_theta=rope.get("rope_theta", 10_000.0),
            norm_epsilon=getattr(config, "rms_norm_eps", 1e-6),
            context_tokens=config.max_position_embeddings,
            target_sha256=self.sha256,
        )
