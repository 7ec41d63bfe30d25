"""LoRA adapters in the engine give plain PEFT's logits and are refused when they do not fit."""

import json
from pathlib import Path

import pytest
import torch
from adapter_files import ALL_BASES, add_manifest
from lora_folders import make_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from planner.model_folder import weights_sha256
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel
from serving.engine.rows import Rows
from serving.errors import AdapterError


def peft_logits(base: Path, adapter: Path, tokens: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.inference_mode():
        return PeftModel.from_pretrained(model, adapter)(torch.tensor([tokens])).logits[0]


def engine_logits(model: FlatModel, tokens: list[int], adapter) -> torch.Tensor:
    return model.forward(
        [Rows(tokens, SequenceCache(KVPool.for_tokens(128)), len(tokens), adapter)]
    )


@pytest.fixture
def base(tiny_family: Path) -> Path:
    return tiny_family / "target"


@pytest.fixture
def model(base: Path) -> FlatModel:
    return FlatModel.load(str(base), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    "fields",
    [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 12}}],
    ids=["plain", "rslora", "patterns"],
)
def test_adapted_logits_equal_pefts(base, model, tmp_path, prompts, fields):
    """Every PEFT scaling rule gives PEFT's own logits to 1e-4."""
    folder = make_adapter(base, tmp_path / "adapter", **fields)
    adapter = model.read_adapter(folder)
    ours = engine_logits(model, prompts[0], adapter)
    assert torch.allclose(ours, peft_logits(base, folder, prompts[0]), atol=1e-4)
    assert not torch.allclose(ours, engine_logits(model, prompts[0], None), atol=1e-2)


def test_a_pattern_that_is_no_name_is_refused(base, model, tmp_path):
    """An expression that would match for hours is refused at sight."""
    folder = make_adapter(base, tmp_path / "adapter", rank_pattern={"q_proj": 2})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"rank_pattern": {"([a-z0-9_.]+)+X": 4}}
    path.write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="is no module's name"):
        model.read_adapter(folder)
    path.write_text(json.dumps(config | {"rank_pattern": {r"^.*\.q_proj$": 2}}))
    assert model.read_adapter(folder)


def test_one_batch_holds_two_adapters_and_the_base(base, model, tmp_path, prompts):
    """Rows of different adapters in one flat batch do not touch each other."""
    adapters = [
        None,
        model.read_adapter(make_adapter(base, tmp_path / "a", seed=1)),
        model.read_adapter(make_adapter(base, tmp_path / "b", seed=2)),
    ]
    pool = KVPool(6)
    batch = [
        Rows(tokens, SequenceCache(pool), len(tokens), adapter)
        for tokens, adapter in zip(prompts[:3], adapters, strict=True)
    ]
    separate = [engine_logits(model, *pair) for pair in zip(prompts[:3], adapters, strict=True)]
    assert torch.allclose(model.forward(batch), torch.cat(separate), atol=1e-4)


def test_a_manifest_of_this_base_model_is_accepted(base, model, tmp_path):
    """The digest in the manifest is compared with the served weights."""
    folder = make_adapter(base, tmp_path / "adapter")
    add_manifest(folder, weights_sha256(base))
    assert model.read_adapter(folder)


def test_a_manifest_of_another_base_model_is_refused(base, model, tmp_path):
    """An adapter of other weights would answer nonsense, so it does not load."""
    folder = make_adapter(base, tmp_path / "adapter")
    add_manifest(folder, ALL_BASES)
    with pytest.raises(AdapterError, match="was trained on base weights 000000000000"):
        model.read_adapter(folder)


def test_weights_that_are_not_the_manifests_are_refused(base, model, tmp_path):
    """A file that was swapped or damaged on its way is not what was trained and judged."""
    folder = make_adapter(base, tmp_path / "adapter", seed=1)
    add_manifest(folder, weights_sha256(base))
    make_adapter(base, folder, seed=2)
    with pytest.raises(AdapterError, match=r"is not the file its motley\.json describes"):
        model.read_adapter(folder)


def test_shapes_that_do_not_fit_are_refused_by_name(base, model, tmp_path):
    """An adapter of a narrower model does not fit; the first misfit is named with both shapes."""
    folder = make_adapter(base, tmp_path / "adapter", target_modules=["down_proj"])
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    tensors[name] = tensors[name][:, :100].contiguous()
    save_file(tensors, path)
    with pytest.raises(AdapterError, match=r"shapes of 'model.layers.0.mlp.down_proj' are"):
        model.read_adapter(folder)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(base, model, tmp_path, missing):
    """Half an adapter folder is refused with the name of the missing half."""
    folder = make_adapter(base, tmp_path / "adapter")
    (folder / missing).unlink()
    with pytest.raises(AdapterError, match=missing):
        model.read_adapter(folder)


def test_a_folder_in_place_of_the_weights_is_refused(base, model, tmp_path):
    """The line says what stands there."""
    folder = make_adapter(base, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").mkdir()
    with pytest.raises(AdapterError, match="Is a directory"):
        model.read_adapter(folder)


def test_a_folder_that_is_not_there_is_refused(model, tmp_path):
    """The message names the path that was asked for."""
    with pytest.raises(AdapterError, match="nowhere: no such adapter folder"):
        model.read_adapter(tmp_path / "nowhere")


def test_features_beyond_plain_lora_are_refused(base, model, tmp_path):
    """DoRA would be served wrongly, so it is refused by name."""
    folder = make_adapter(base, tmp_path / "adapter", use_dora=True)
    with pytest.raises(AdapterError, match="DoRA"):
        model.read_adapter(folder)


def test_an_adapted_output_head_is_refused(base, model, tmp_path):
    """The head sees the rows whose logits are wanted alone: it would shift other requests' rows."""
    folder = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    width, vocabulary = model.config.hidden_size, model.vocabulary_size
    head = {"lora_A": torch.ones(4, width), "lora_B": torch.ones(vocabulary, 4)}
    added = {f"base_model.model.lm_head.{side}.weight": part for side, part in head.items()}
    save_file(load_file(path) | added, path)
    with pytest.raises(AdapterError, match="'lm_head', the output head"):
        model.read_adapter(folder)


def test_truncated_weights_are_refused(base, model, tmp_path):
    """A file cut short is one clear line, not a traceback of the reader."""
    folder = make_adapter(base, tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AdapterError, match="cannot be read"):
        model.read_adapter(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 99}, "its configuration says 99"),
        ({"lora_alpha": float("nan")}, "not finite"),
        ({"lora_alpha": 1e308}, "not finite"),
    ],
    ids=str,
)
def test_a_configuration_that_belies_the_weights_is_refused(base, model, tmp_path, change, words):
    """Rank and alpha are held against the tensors before anything is served."""
    folder = make_adapter(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError, match=words):
        model.read_adapter(folder)


def change_tensors(folder: Path, change) -> None:
    """Replace every tensor of an adapter by what `change` makes of it."""
    path = folder / "adapter_model.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.fill_(float("nan")), "not finite in float32"),
        (lambda tensor: tensor.double() * 1e300, "not finite in float32"),
        (lambda tensor: tensor.fill_(3e38), "not finite in float32"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "holds float8_e4m3fn; export it as"),
        (lambda tensor: tensor.int(), "holds int32; export it as"),
    ],
    ids=["nan", "overflow of the cast", "overflow of the product", "float8", "integers"],
)
def test_weights_that_would_answer_rubbish_are_refused(base, model, tmp_path, change, words):
    """What is no finite number in the model's own type ends in one line, never in text."""
    folder = make_adapter(base, tmp_path / "adapter")
    change_tensors(folder, change)
    with pytest.raises(AdapterError, match=words):
        model.read_adapter(folder)


def test_float16_and_float64_weights_load(base, model, tmp_path, prompts):
    """The file's type is no obstacle: the update is cast to the model's."""
    expected = engine_logits(model, prompts[0], model.read_adapter(make_adapter(base, tmp_path)))
    for dtype in (torch.float16, torch.float64):
        change_tensors(tmp_path, lambda tensor, dtype=dtype: tensor.to(dtype))
        adapter = model.read_adapter(tmp_path)
        assert torch.allclose(engine_logits(model, prompts[0], adapter), expected, atol=1e-2)


def test_a_truncated_model_is_one_line(base, tmp_path):
    """A model file cut short ends in a ModelError that names the model."""
    import shutil

    from serving.errors import ModelError

    folder = shutil.copytree(base, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        FlatModel.load(str(folder), device="cpu", dtype=torch.float32)
