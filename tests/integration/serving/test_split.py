"""A target over two devices computes what it computes on one; here both are the processor."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toy_sizes import SIZES as TOY_SIZES
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

import serving.engine.split as split_module
from serving import gpu_memory
from serving.config import ServeConfig
from serving.engine.apart_drafter import ApartChainDrafter
from serving.engine.attention_check import attention_is_row_invariant
from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.fixed_rows import FixedRowsLinear
from serving.engine.invariance import Guarantee, check_model
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel
from serving.engine.model_drafter import leanest
from serving.engine.packing import packed_linears
from serving.engine.rows import Rows
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.split import Offload
from serving.engine.tree_drafter import TreeDrafter
from serving.errors import ModelError
from serving.server import build_engine

SIZES = TOY_SIZES | {"initializer_range": 0.2}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, num_hidden_layers=3),
    "tied": LlamaConfig(**SIZES, num_hidden_layers=3, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, num_hidden_layers=3),
    "mistral": MistralConfig(**SIZES, num_hidden_layers=3, sliding_window=37),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        num_hidden_layers=4,
        sliding_window=37,
        layer_types=["sliding_attention", "full_attention"] * 2,
        query_pre_attn_scalar=32,
    ),
}
TREE = (-1, 0, 0, 1, 1, 2)

ON_CPU = Offload(
    num_layers=2,
    device=torch.device("cpu"),
    dtype=torch.float32,
    free_bytes=1 << 30,
    reserved_bytes=0,
    kv_bytes=1 << 22,
)


def offload(num_layers=2, dtype=torch.float32, device="cpu", free_bytes=1 << 30) -> Offload:
    return replace(
        ON_CPU,
        num_layers=num_layers,
        dtype=dtype,
        device=torch.device(device),
        free_bytes=free_bytes,
    )


def load(folder: Path, part: Offload | None = None, quantization=None) -> FlatModel:
    return FlatModel.load(
        str(folder), device="cpu", dtype=torch.float32, quantization=quantization, offload=part
    )


def save(config: PretrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path) -> Path:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(
        plain, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    )
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


def ragged_logits(model: FlatModel, adapter_folder: Path | None = None) -> torch.Tensor:
    """Return logits of a chunk, a tree behind a cached prompt, and a row with an adapter."""
    adapter = model.read_adapter(adapter_folder) if adapter_folder else None
    pool = KVPool(20)
    caches = [SequenceCache(pool, salt) for salt in range(3)]
    tokens = [(7 * index) % 90 + 3 for index in range(70)]
    for cache in caches[1:]:
        model.forward([Rows(tokens, cache, adapter=adapter if cache is caches[2] else None)])
        cache.commit(len(tokens))
    batch = [
        Rows(tokens[:33], caches[0], 33),
        Rows(tokens[: len(TREE)], caches[1], len(TREE), parents=TREE),
        Rows(tokens[5:6], caches[2], adapter=adapter),
    ]
    return model.forward(batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_split_model_equals_the_whole_one(family, tmp_path):
    """Chunks, trees and adapters, with one, some and all layers on the first device."""
    config = FAMILIES[family]
    base = save(config, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    whole = ragged_logits(load(base), adapter)
    for num_layers in (1, 2, config.num_hidden_layers):
        model = load(base, offload(num_layers))
        assert model.split is not None
        assert torch.allclose(ragged_logits(model, adapter), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "tied", "gemma3"])
def test_a_part_in_another_type_gets_all_its_inputs_in_it(family, tmp_path, monkeypatch):
    """In float64 the first layers and their pages hold no other type; one state crosses a forward."""
    base = save(FAMILIES[family], tmp_path / "base")
    whole = ragged_logits(load(base))
    model = load(base, offload(2, torch.float64))
    crossed = []
    download = split_module.download

    def recording(tensor):
        crossed.append(tensor.dtype)
        return download(tensor)

    monkeypatch.setattr(split_module, "download", recording)
    assert torch.allclose(ragged_logits(model), whole, atol=1e-4, rtol=1e-4)
    assert crossed == [torch.float64] * 3
    pool = KVPool(2)
    model.forward([Rows([5, 6], SequenceCache(pool))])
    types = [keys.dtype for keys, _ in SequenceCache(pool).snapshot()]
    assert types == [torch.float64] * 2 + [torch.float32] * (model.config.num_hidden_layers - 2)
    values = 2 * 2 * 32  # keys and values, heads, size
    assert model.kv_bytes_per_token == values * (2 * 8 + (len(types) - 2) * 4)


def test_the_head_keeps_a_tied_weight_of_its_own_type(tmp_path):
    """Narrowing the embedding on one device leaves the head on the other as it was."""
    model = load(save(FAMILIES["tied"], tmp_path / "base"), offload(2, torch.bfloat16))
    assert model.model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.model.get_output_embeddings().weight.dtype == torch.float32


def test_only_the_processors_part_is_packed(tiny_family):
    """Int8 weights stay behind; the first layers keep the float32 ones, and all is bit-exact here."""
    model = load(tiny_family / "target", offload(2), quantization="int8")
    kinds = {
        name: isinstance(linear, FixedRowsLinear)
        for name, linear in packed_linears(model.model).items()
    }
    assert kinds["model.layers.1.mlp.up_proj"]
    assert not kinds["model.layers.2.mlp.up_proj"]
    assert not kinds["lm_head"]
    guarantee = check_model(model.model, most_rows=100, intermediate_size=512)
    assert guarantee.is_bit_exact, guarantee.broken_by


def generate(
    target: FlatModel, drafter: Drafter | None, prompts: list[list[int]], num_draft_tokens: int = 4
) -> list[tuple[int, ...]]:
    engine = Engine(
        target,
        drafter,
        num_draft_tokens=num_draft_tokens,
        limits=EngineLimits(kv_bytes=1 << 26, max_sequences=8, max_waiting=100),
        eos_ids=frozenset(),
    )
    texts: dict[str, tuple[int, ...]] = {}
    for index, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0.0, max_tokens=24)
        engine.add(GenerationRequest(str(index), tuple(prompt), params, seed=0))
        texts[str(index)] = ()
    while engine.has_work:
        for output in engine.step():
            texts[output.request_id] += output.tokens
    engine.check_idle()
    assert drafter is None or engine.counters.accepted_tokens > 0
    return list(texts.values())


def test_drafting_for_a_split_target_changes_no_token(tiny_family, draft, prompts):
    """Chains and trees beside a split and packed target give its own greedy text."""
    target = load(tiny_family / "target", offload(3), quantization="float32")
    check_model(target.model, most_rows=600, intermediate_size=512)
    plain = generate(target, None, prompts[:12])
    assert plain == generate(load(tiny_family / "target"), None, prompts[:12])
    assert generate(target, ApartChainDrafter(draft), prompts[:12]) == plain
    assert generate(target, TreeDrafter(draft, beam_width=3, depth=4), prompts[:12], 12) == plain


def test_auto_takes_what_fits_and_says_so(tiny_family, caplog):
    """Little memory takes few layers; too little leaves the model whole, with a warning."""
    caplog.set_level(logging.INFO)
    folder = tiny_family / "target"
    some = load(folder, offload("auto", free_bytes=8 << 20))
    assert some.split is not None
    assert 0 < some.split.num_layers < some.config.num_hidden_layers
    assert re.search(rf"offload layers={some.split.num_layers} of=12 device=cpu", caplog.text)
    assert load(folder, offload("auto", free_bytes=1000)).split is None
    last = next(record for record in reversed(caplog.records) if "offload" in record.message)
    assert last.levelname == "WARNING"
    assert "layers=0" in last.message


def test_what_cannot_be_split_is_refused(tmp_path, tiny_family):
    """Too many layers, too little memory, and a family whose layers are elsewhere: one line each."""
    with pytest.raises(ModelError, match="has 12 layers, --target-gpu-layers asks for 13"):
        load(tiny_family / "target", offload(13))
    with pytest.raises(ModelError, match=r"first 2 layers take 0\.0 GiB on the GPU, which has"):
        load(tiny_family / "target", offload(2, free_bytes=1000))
    gpt2 = GPT2Config(vocab_size=96, n_embd=64, n_head=2, n_layer=2, n_positions=128)
    folder = save(gpt2, tmp_path / "gpt2")
    with pytest.raises(ModelError, match="layers of gpt2 models cannot be split"):
        load(folder, offload(1))


def test_a_type_too_narrow_for_the_weights_is_refused(tmp_path):
    """Weights that overflow float16 are found at start, not in answers."""
    base = save(FAMILIES["llama"], tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.layers[0].mlp.up_proj.weight.data *= 1e6
    model.save_pretrained(base)
    with pytest.raises(ModelError, match=r"torch.float16; drop --target-gpu-layers or choose"):
        load(base, offload(1, torch.float16))


def serve_config(tiny_family: Path, **fields) -> ServeConfig:
    settings = {"kv_bytes": 1 << 24, "max_sequences": 2, "target_gpu_layers": 2} | fields
    return ServeConfig(model=str(tiny_family / "target"), served_model_name="t", **settings)


def test_the_server_splits_and_states_the_guarantee(tiny_family, monkeypatch, caplog):
    """The start-up test runs over both parts, and what it finds is what the engine states."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(gpu_memory, "checked_gpu", lambda name: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 9 << 30))
    engine, _ = build_engine(serve_config(tiny_family))
    assert re.search(r"offload layers=2 of=12 device=cpu dtype=float32", caplog.text)
    line = next(r.message for r in caplog.records if r.message.startswith("row invariance"))
    held = "broken_by=none" in line
    assert engine.guarantee == ("bit-exact" if held else "up to floating-point order")


def test_a_part_that_is_not_invariant_lowers_the_guarantee(tiny_family, monkeypatch):
    """Attention is tested on both devices, and one that fails on either is enough."""
    results: dict[str, bool] = {}

    def check(model, *, others, **_) -> Guarantee:
        results.update({name: test() for name, test in others.items()})
        broken = tuple(name for name, holds in results.items() if not holds)
        return Guarantee(broken, most_rows=1, threads=1, tested=len(results))

    monkeypatch.setattr("serving.server.check_model", check)
    monkeypatch.setattr(gpu_memory, "checked_gpu", lambda name: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 9 << 30))
    monkeypatch.setattr(
        "serving.server.attention_is_row_invariant", lambda config, device=None, **_: device is None
    )
    engine, _ = build_engine(serve_config(tiny_family, target_gpu_dtype="bfloat16"))
    assert results == {"attention": True, "attention:cpu": False}
    assert engine.guarantee == "up to floating-point order"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal needs a machine without CUDA")
@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "sees 0 CUDA devices"), ("cuda:3", "not here"), ("xyz", "no device")],
)
def test_a_missing_gpu_is_one_line(tiny_family, device, message):
    """Nothing falls back to the processor silently."""
    with pytest.raises(ModelError, match=message):
        build_engine(serve_config(tiny_family, target_gpu_device=device))


def test_a_draft_on_the_same_gpu_is_counted(tiny_family):
    """Its weights twice, while they are fused, and its share of pages."""
    config = serve_config(tiny_family, draft=str(tiny_family / "draft"))
    target = LlamaConfig.from_pretrained(tiny_family / "target")
    shape = json.loads((tiny_family / "draft" / "config.json").read_text())
    per_token = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"]
    of_target = 2 * target.num_hidden_layers * target.num_key_value_heads * target.head_dim
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
    weights = 2 * sum(parameter.numel() for parameter in model.parameters())
    expected = 2 * weights + (1 << 24) * per_token // of_target
    assert gpu_memory.draft_bytes(config, target) == expected


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", 0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_layers_on_a_gpu_compute_what_the_processor_computes(cuda, tiny_family, dtype):
    """To 1e-3 in float32, and to a type's rounding in 16 bits."""
    whole = ragged_logits(load(tiny_family / "target"))
    part = replace(offload(3, dtype), device=cuda)
    found = ragged_logits(load(tiny_family / "target", part))
    assert found.device.type == "cpu"
    tolerance = (1e-3 if dtype == torch.float32 else 0.1) * float(whole.std())
    assert float((found - whole).abs().max()) < tolerance


@pytest.mark.gpu
def test_adapters_apply_on_layers_of_a_gpu(cuda, tmp_path):
    """An adapter whose layers are on both devices gives what it gives on one."""
    base = save(FAMILIES["llama"], tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    whole = ragged_logits(load(base), adapter)
    found = ragged_logits(load(base, replace(offload(2), device=cuda)), adapter)
    assert torch.allclose(found, whole, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
def test_drafts_on_a_gpu_change_no_token(cuda, target, tiny_family, prompts):
    """Chains that stay there and trees, alone on the GPU, leave a CPU target's greedy text."""
    loaded = FlatModel.load(str(tiny_family / "draft"), device=str(cuda), dtype=torch.float32)
    on_gpu = leanest(loaded)
    plain = generate(target, None, prompts)
    assert generate(target, ApartChainDrafter(on_gpu), prompts) == plain
    assert generate(target, TreeDrafter(on_gpu, beam_width=4, depth=4), prompts, 16) == plain


@pytest.mark.gpu
def test_drafting_beside_a_target_on_both_changes_no_token_where_it_is_bit_exact(
    cuda, target, tiny_family, prompts
):
    """Where the start-up test of the split target holds, its greedy text is the same drafted."""
    split = load(tiny_family / "target", replace(offload(3), device=cuda), quantization="float32")
    guarantee = check_model(split.model, most_rows=600, intermediate_size=512)
    if not guarantee.is_bit_exact:
        pytest.skip(f"this GPU's kernels depend on other rows: {guarantee.broken_by[:3]}")
    if not attention_is_row_invariant(split.config, device=cuda):
        pytest.skip("this GPU's attention depends on other rows")
    loaded = FlatModel.load(str(tiny_family / "draft"), device=str(cuda), dtype=torch.bfloat16)
    plain = generate(split, None, prompts)
    assert generate(split, ApartChainDrafter(leanest(loaded)), prompts) == plain
