"""Sizes from a config.json: published parameter counts are the oracle."""

from pathlib import Path

import pytest

from planner.errors import DocumentError
from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.model_config import model_spec_of

MODELS = built_in_catalogue().models


def _spec(config):
    return model_spec_of(config, name="m", path=Path("config.json"))


def _config(name, **changes):
    (entry,) = (model for model in MODELS if model.name == name)
    return {**entry.config, **changes}


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_counted_parameters_are_the_published_ones(entry):
    """Every built-in model counts to the last parameter what its publisher states."""
    assert _spec(entry.config).total_parameters == entry.parameters


def test_a_real_folder_counts_its_own_weights(tiny_family):
    """The shipped target's parameters are its weight file's, two bytes each but for the header."""
    from planner.hardware.catalogue import Catalogue
    from planner.hardware.find_model import find_model

    spec = find_model(str(tiny_family / "target"), Catalogue(schema_version=1))
    stored = (tiny_family / "target" / "model.safetensors").stat().st_size
    assert 0 < stored - 2 * spec.total_parameters < 50_000


@pytest.mark.parametrize(
    ("name", "active_billions", "tolerance"),
    [
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 12.9, 0.1),
        ("Qwen/Qwen3-30B-A3B", 3.3, 0.1),
        ("deepseek-ai/DeepSeek-V3", 37, 1),
    ],
)
def test_active_parameters_of_experts(name, active_billions, tolerance):
    """A token meets as many parameters as the publishers of mixture models say."""
    spec = _spec(_config(name))
    # A step of one token reads them all, but of the input table one row.
    active = spec.weight_traffic_bytes("bfloat16", 1) / 2 + spec.vocabulary_parameters
    assert active / 1e9 == pytest.approx(active_billions, abs=tolerance)


def test_the_cache_of_grouped_queries():
    """Llama-2-70B keeps 80 layers x 2 x 8 heads x 128 numbers a token, Llama-2-7B 32 x 2 x 32 x 128."""
    grouped = _spec(_config("meta-llama/Llama-2-70b-hf"))
    full = _spec(_config("meta-llama/Llama-2-7b-hf"))
    assert grouped.kv_bytes_per_token("float16") == 80 * 2 * 8 * 128 * 2
    assert full.kv_bytes_per_token("float16") == 32 * 2 * 32 * 128 * 2


def test_latent_attention_keeps_one_vector_a_layer():
    """DeepSeek-V3 keeps 512 + 64 numbers a token and layer, on one head."""
    spec = _spec(_config("deepseek-ai/DeepSeek-V3"))
    assert spec.kv_values_per_token == 61 * (512 + 64)
    assert spec.num_key_value_heads == 1


def test_a_step_reads_more_experts_the_more_tokens_it_has():
    """One token reads what it visits; many read everything but the input table."""
    spec = _spec(_config("mistralai/Mixtral-8x7B-Instruct-v0.1"))
    one, two, many = (spec.weight_traffic_bytes("bfloat16", tokens) for tokens in (1, 2, 500))
    assert one < two < many
    assert many == pytest.approx(2 * (spec.total_parameters - spec.vocabulary_parameters))


def test_quantised_weights_keep_wide_tables():
    """Eight-bit layers stand beside 16-bit embeddings and head."""
    spec = _spec(_config("meta-llama/Llama-2-7b-hf"))
    assert spec.weight_bytes("int8") == spec.layer_parameters + 2 * 2 * spec.vocabulary_parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: 'gpt2' cannot be planned; known are"),
        ({"model_type": None}, "model_type: None cannot be planned"),
        ({"hidden_size": None}, "hidden_size: a whole number is needed"),
        ({"hidden_size": "wide"}, "got 'wide'"),
        ({"num_hidden_layers": True}, "got True"),
        ({"num_attention_heads": 0}, "its width, layers or heads are 0"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"max_position_embeddings": 0}, "max_context_tokens"),
    ],
)
def test_broken_configs_are_one_line(changes, message):
    """What is wrong with a config.json is said with the field and its value."""
    with pytest.raises(DocumentError) as caught:
        _spec(_config("meta-llama/Llama-2-7b-hf", **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_experts_in_some_layers_only_are_refused():
    """A layout the count does not know is an error, not a guess."""
    with pytest.raises(DocumentError, match="decoder_sparse_step"):
        _spec(_config("Qwen/Qwen3-30B-A3B", decoder_sparse_step=2))
