"""Which decoders the engine runs, and that it refuses by name what it would answer wrongly."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as DECODERS
from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

from serving.config import ServeConfig
from serving.engine.model import FlatModel
from serving.errors import ModelError
from serving.server import build_engine

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def save(config, folder) -> str:
    torch.manual_seed(0)
    kind = T5ForConditionalGeneration if isinstance(config, T5Config) else DECODERS[type(config)]
    kind(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES),
        Qwen2Config(**SIZES),
        Qwen3Config(**SIZES),
        MistralConfig(**SIZES, sliding_window=5),
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    ],
    ids=lambda config: config.model_type,
)
def test_decoders_of_the_attention_interface_run(config, tmp_path):
    """Their flat logits were checked against their own attention when they loaded."""
    model = FlatModel.load(save(config, tmp_path), device="cpu", dtype=torch.float32)
    assert model.vocabulary_size == 64


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3),
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    ],
    ids=lambda config: config.model_type,
)
def test_what_the_engine_would_get_wrong_is_refused(config, tmp_path):
    """Recurrent state, attention biases and encoder-decoders end in one line at start."""
    with pytest.raises(ModelError) as caught:
        FlatModel.load(save(config, tmp_path), device="cpu", dtype=torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, name: tensors.pop(name), "is missing; fetch the model again"),
        (
            lambda tensors, name: tensors.update({name: tensors[name][:3].contiguous()}),
            r"is \(3, 32\), not \(48, 32\); fetch the model again",
        ),
    ],
    ids=["missing", "misshapen"],
)
def test_weights_that_are_not_whole_are_refused_by_name(tmp_path, change, words):
    """What a file lacks would be random numbers, and the endpoint would answer with them."""
    folder = save(LlamaConfig(**SIZES), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    change(tensors, name)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"not whole: {name} {words}"):
        FlatModel.load(folder, device="cpu", dtype=torch.float32)


def test_attention_that_cannot_be_replaced_is_named_by_the_models_type(tmp_path):
    """Some models pick their attention from a table of their own; the line says what to do."""
    config = GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        intermediate_size=48,
        max_position_embeddings=64,
    )
    asked = ServeConfig(model=save(config, tmp_path), served_model_name="m", kv_bytes=1 << 20)
    with pytest.raises(ModelError, match="gpt_neo models bring attention of their own") as caught:
        build_engine(asked)
    assert "--engine vllm" in str(caught.value)
