"""The drafter's lean Llama is the same function as transformers' Llama."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from serving.engine.flat_attention import NAME
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.lean_llama import LeanLlama, is_supported, leanest
from serving.engine.model import FlatModel
from serving.engine.rows import Rows


def random_llama(**fields) -> LlamaForCausalLM:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 50,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
    }
    config = LlamaConfig(**(settings | fields))
    config._attn_implementation = NAME
    model = LlamaForCausalLM(config)
    model.train(False)
    return model


@pytest.mark.parametrize(
    "fields",
    [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 6}, {"rms_norm_eps": 1e-3}],
    ids=str,
)
def test_ragged_batches_with_a_past_give_the_same_logits(fields):
    """Two sequences, one with cached tokens, wanted rows anywhere: equal to 1e-4 relative."""
    model = random_llama(**fields)
    logits = []
    for runner in (FlatModel(model), LeanLlama(model)):
        pool = KVPool(2)
        caches = [SequenceCache(pool), SequenceCache(pool)]
        runner.forward([Rows([1, 2, 3], caches[0])])
        caches[0].commit(3)
        batch = [Rows([4, 5, 6, 7], caches[0], 2), Rows([8, 9], caches[1], 1)]
        logits.append(runner.forward(batch))
    assert logits[0].std() > 0.1
    assert torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ],
    ids=str,
)
def test_other_llamas_stay_with_transformers(fields):
    """What the lean path does not know is run by transformers instead, never wrongly."""
    model = random_llama(**fields)
    assert not is_supported(model)
    flat = FlatModel(model)
    assert leanest(flat) is flat
