"""What runs on a second device meets no tensor of the processor; copies are few and queued.

A tensor of the wrong device either fails on a GPU or, as an index, is copied with a wait that no
figure shows. The second device here computes nothing (`device_watch`).
"""

import pytest
import torch
from device_watch import DeviceWatch, fetched
from toy_model import TableModel, random_table
from toy_sizes import SIZES as TOY_SIZES
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

import serving.engine.apart_drafter as apart_module
import serving.engine.split as split_module
from serving.engine.apart_drafter import ApartChainDrafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.flat_attention import NAME as FLAT_ATTENTION
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.lean_decoder import LeanDecoder
from serving.engine.model import FlatModel
from serving.engine.rows import Rows
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.split import Split

AWAY = torch.device("meta")
SIZES = TOY_SIZES | {"max_position_embeddings": 256}
LLAMA = LlamaConfig(**SIZES, num_hidden_layers=3)
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LLAMA,
    "qwen2": Qwen2Config(**SIZES, num_hidden_layers=3),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        num_hidden_layers=4,
        sliding_window=37,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
}


def random_model(config: PretrainedConfig) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    model.set_attn_implementation(FLAT_ATTENTION)
    return model


def run_chunks_and_trees(model: FlatModel | LeanDecoder, watch: DeviceWatch) -> list[torch.Tensor]:
    """Run a ragged batch of chunks, then one with a tree, and move what was accepted."""
    pool = KVPool(10)
    caches = [SequenceCache(pool) for _ in range(2)]
    with watch:
        first = model.forward([Rows(list(range(70)), caches[0]), Rows([3, 4], caches[1], 2)])
        for cache in caches:
            cache.commit(2)
        tree = Rows([1, 2, 3, 4], caches[0], 4, parents=[-1, 0, 0, 1])
        second = model.forward([tree, Rows([3], caches[1])])
        caches[0].commit_path([0, 2])
    return [first, second]


@pytest.mark.parametrize("kind", ["fused", "lean", "transformers"])
def test_a_draft_runs_on_its_own_device_alone(kind):
    """Its forwards copy index tables up and nothing down; a token id may already be there."""
    model = random_model(LLAMA).to(AWAY)
    is_lean = kind == "lean"
    runner = (
        LeanDecoder(model, is_fused=True)
        if kind == "fused"
        else FlatModel(model, may_be_lean=is_lean)
    )
    watch = DeviceWatch()
    logits = run_chunks_and_trees(runner, watch)
    cache = SequenceCache(KVPool(1))
    with watch:
        logits.append(runner.forward([Rows([0], cache)], torch.zeros(1, dtype=torch.long).to(AWAY)))
    assert not watch.mixed
    assert {rows.device.type for rows in logits} == {"meta"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_split_targets_parts_meet_in_one_hidden_state_a_forward(family, monkeypatch):
    """Both parts keep to themselves; logits come out on the processor."""
    crossed = []

    def recording(tensor):
        crossed.append(tuple(tensor.shape))
        return fetched(tensor)

    monkeypatch.setattr(split_module, "download", recording)
    model = random_model(FAMILIES[family])
    flat = FlatModel(model)
    flat.split = Split(model, 2, AWAY, torch.bfloat16)
    watch = DeviceWatch()
    logits = run_chunks_and_trees(flat, watch)
    assert not watch.mixed
    assert {rows.device.type for rows in logits} == {"cpu"}
    assert crossed == [(1, 72, 64), (1, 5, 64)]
    hidden_size, head_size = SIZES["hidden_size"], SIZES["head_dim"]
    assert not [shape for shape in watch.copied if shape[-1] == hidden_size and len(shape) == 3]
    rotations = [shape for shape in watch.copied if shape == (1, 72, head_size)]
    assert len(rotations) in (2, 4)  # cosine and sine, once for each kind of layer


def test_a_round_of_chains_fetches_token_ids_alone(monkeypatch):
    """In the engine, whatever the requests, what leaves the draft's device is one copy of ids."""
    fetches = []

    def recording(tensor):
        fetches.append((tensor.dtype, tensor.numel()))
        return fetched(tensor)

    monkeypatch.setattr(apart_module, "download", recording)
    draft = LeanDecoder(random_model(LLAMA).to(AWAY), is_fused=True)
    engine = Engine(
        TableModel(random_table(96, seed=1)),
        ApartChainDrafter(draft),
        num_draft_tokens=3,
        limits=EngineLimits(kv_bytes=5000, max_sequences=2, max_waiting=4),
        eos_ids=frozenset(),
    )
    for index, temperature in enumerate((0.0, 0.9)):
        params = SamplingParams(temperature=temperature, max_tokens=7)
        engine.add(GenerationRequest(str(index), (1, 2, 3), params, seed=index))
    watch = DeviceWatch()
    with watch:
        while engine.has_work:
            engine.step()
    assert not watch.mixed
    assert {dtype for dtype, _ in fetches} == {torch.long}
    assert sum(count for _, count in fetches) == engine.counters.draft_tokens
