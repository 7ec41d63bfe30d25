"""The lean decoder is the same function as transformers', with the model's modules and fused."""

import pytest
import torch
from toy_sizes import SIZES
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from serving.engine.flat_attention import NAME
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.lean_decoder import LeanDecoder, is_supported
from serving.engine.model import FlatModel
from serving.engine.model_drafter import leanest
from serving.engine.packing import replace_linears
from serving.engine.rows import Rows

LAYERS = {"num_hidden_layers": 3, "initializer_range": 0.3}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **LAYERS),
    "smollm": LlamaConfig(**SIZES | {"num_key_value_heads": 1}, **LAYERS, tie_word_embeddings=True),
    "as many key heads": LlamaConfig(**SIZES | {"num_key_value_heads": 4}, **LAYERS),
    "coarse norms": LlamaConfig(**SIZES, **LAYERS, rms_norm_eps=1e-2),
    "biases": LlamaConfig(**SIZES, **LAYERS, attention_bias=True, mlp_bias=True),
    "scaled rotations": LlamaConfig(**SIZES, **LAYERS, rope_parameters=LLAMA3),
    "mistral": MistralConfig(**SIZES, **LAYERS, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES, **LAYERS),
    "qwen3": Qwen3Config(**SIZES, **LAYERS),
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
OTHERS = {
    "gelu": LlamaConfig(**SIZES, **LAYERS, hidden_act="gelu"),
    "dynamic rotations": LlamaConfig(**SIZES, **LAYERS, rope_parameters=DYNAMIC),
    "window": MistralConfig(**SIZES, **LAYERS, sliding_window=37),
    "window on some layers": Qwen2Config(
        **SIZES, **LAYERS, use_sliding_window=True, sliding_window=37, max_window_layers=1
    ),
}


def random_decoder(config: PretrainedConfig) -> PreTrainedModel:
    """Return a decoder no weight of which is a constant: neither norms' nor biases'."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.set_attn_implementation(NAME)
    model.train(False)
    return model


def ragged_logits(runner: FlatModel | LeanDecoder) -> torch.Tensor:
    """Run a chunk, then a tree behind it beside a new sequence, wanted rows anywhere."""
    pool = KVPool(4)
    caches = [SequenceCache(pool), SequenceCache(pool)]
    first = runner.forward([Rows(list(range(3, 73)), caches[0], 2)])
    caches[0].commit(70)
    tree = Rows([4, 5, 6, 7], caches[0], 4, parents=[-1, 0, 0, 2])
    return torch.cat((first, runner.forward([tree, Rows([8, 9], caches[1], 1)])))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_ragged_batches_with_a_past_give_the_same_logits(config):
    """Chunk, tree and a second sequence: equal to 1e-4, with modules of any kind and fused."""
    model = random_decoder(config)
    theirs = ragged_logits(FlatModel(model, may_be_lean=False))
    assert theirs.std() > 0.1
    lean = FlatModel(model)
    assert lean.path == "lean"
    fused = leanest(lean)
    assert isinstance(fused, LeanDecoder)
    for runner in (lean, fused):
        assert torch.allclose(ragged_logits(runner), theirs, rtol=1e-4, atol=1e-4)
    replace_linears(model, "float32")
    lean.take_modules()
    assert torch.allclose(ragged_logits(lean), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", ["bfloat16", "int8", "int4"])
def test_quantised_layers_give_the_logits_that_transformers_forward_gives(quantization):
    """The lean path calls the packed layers themselves, so both differ by float order only."""
    model = random_decoder(CONFIGS["qwen2"])
    replace_linears(model, quantization)
    theirs, ours = (ragged_logits(FlatModel(model, may_be_lean=lean)) for lean in (False, True))
    # A rounded activation may fall to the other side, which is a step of its own type.
    assert (ours - theirs).abs().mean() < 1e-2 * theirs.std()


@pytest.mark.parametrize("config", [CONFIGS["llama"], CONFIGS["qwen3"]], ids=["llama", "qwen3"])
def test_features_are_last_hidden_states_behind_the_final_norm(config):
    """What a draft head reads is the same on both paths, and so are the logits beside it."""
    model = random_decoder(config)
    found = []
    for is_lean in (False, True):
        runner = FlatModel(model, may_be_lean=is_lean)
        cache = SequenceCache(KVPool(1))
        found.append(runner.forward_with_features([Rows([5, 6, 7, 8], cache, 2)]))
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_other_models_stay_with_transformers(config):
    """What the lean path does not know is run by transformers instead, never wrongly."""
    model = random_decoder(config)
    assert not is_supported(model)
    flat = FlatModel(model)
    assert flat.path == "transformers"
    assert leanest(flat) is flat


def test_rotations_reach_positions_beyond_the_first_table():
    """The table grows: row 600 of a prompt is transformers' own."""
    config = LlamaConfig(**SIZES | {"max_position_embeddings": 1024}, **LAYERS)
    model = random_decoder(config)
    tokens = [index % 90 for index in range(601)]
    theirs, ours = (
        FlatModel(model, may_be_lean=lean).forward([Rows(tokens, SequenceCache(KVPool(10)))])
        for lean in (False, True)
    )
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
