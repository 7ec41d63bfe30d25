"""What verification costs by row count: a 1B-shaped random Llama with every type of weight.

A forward of the decoder and its head at 1 to 32 rows behind a short context, all logits wanted.
c(1) is the fastest single-row forward without padded rows of that type of weight; `step` is the
single-row forward as it is served, padded where that keeps bits or saves time. Read bandwidth is a
float32 sum over 1 GiB (32 times the last-level cache), same process and threads, taken between the
passes. Medians of passes over all row counts; both thread counts are set explicitly.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from serving.engine.cost_curve import ROW_COUNTS
from serving.engine.flat_attention import NAME as FLAT_ATTENTION
from serving.engine.invariance import check_model
from serving.engine.kernels import Quantization, pack
from serving.engine.kv_cache import SequenceCache
from serving.engine.model import FlatModel
from serving.engine.packing import packed_linears
from serving.engine.rows import Rows

CONFIG = LlamaConfig(
    hidden_size=2048,
    num_hidden_layers=22,
    intermediate_size=5632,
    num_attention_heads=32,
    num_key_value_heads=4,
    vocab_size=32000,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
)
KINDS: tuple[Quantization, ...] = ("float32", "bfloat16", "int8", "int4")
THREADS = (1, 2)
REPEATS = 7
CONTEXT_TOKENS = 64
MOST_ROWS = 48
LAST_LEVEL_CACHE_BYTES = 32 << 20
BANDWIDTH_BYTES = 1 << 30
Forward = Callable[[int], object]


def run() -> list[dict[str, Any]]:
    """Measure every type of weight at both thread counts and print the table."""
    rows = []
    for kind in KINDS:
        model = random_model(kind)
        for threads in THREADS:
            torch.set_num_threads(threads)
            rows.append(_measure(model, kind, threads))
            print(rows[-1], flush=True)
        del model
    _compare_single_rows(rows)
    _show(rows)
    return rows


def random_model(kind: Quantization) -> FlatModel:
    """Build the shape with random weights, a layer at a time: only one is ever dense."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(CONFIG)
    model.set_attn_implementation(FLAT_ATTENTION)
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for name in names:
        shell = model.get_submodule(name)
        dense = nn.Linear(shell.in_features, shell.out_features, bias=False)
        nn.init.normal_(dense.weight, std=0.02)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, pack(dense, kind))
    model.model.embed_tokens = nn.Embedding(CONFIG.vocab_size, CONFIG.hidden_size)
    model.model.rotary_emb = type(model.model.rotary_emb)(CONFIG)
    for name, module in model.named_modules():
        if "norm" in name:
            module.weight = nn.Parameter(torch.ones(CONFIG.hidden_size))
    return FlatModel(model.requires_grad_(False))


def _measure(model: FlatModel, kind: Quantization, threads: int) -> dict[str, Any]:
    linears = list(packed_linears(model.model).values())
    weight_bytes = sum(linear.weight_bytes for linear in linears)
    assert weight_bytes >= 4 * LAST_LEVEL_CACHE_BYTES, "weights must come from memory"
    guarantee = check_model(
        model.model, most_rows=MOST_ROWS, intermediate_size=CONFIG.intermediate_size
    )
    forward = _forward(model)
    big = torch.ones(BANDWIDTH_BYTES // 4)
    paddings = [linear.fewest_rows for linear in linears]
    samples: dict[Any, list[float]] = {}

    def sample(key: object, call: Callable[[], object]) -> None:
        start = time.perf_counter()
        call()
        samples.setdefault(key, []).append(time.perf_counter() - start)

    for repeat in range(REPEATS + 1):
        sample("bandwidth", big.sum)
        for count in ROW_COUNTS:
            sample(count, lambda count=count: forward(count))
        for linear in linears:
            linear.fewest_rows = 1
        sample("unpadded", lambda: forward(1))
        for linear, padding in zip(linears, paddings, strict=True):
            linear.fewest_rows = padding
        if repeat == 0:
            samples.clear()  # first touches of memory and code
    seconds = {key: statistics.median(runs) for key, runs in samples.items()}
    bandwidth = BANDWIDTH_BYTES / seconds["bandwidth"]
    return {
        "kind": kind,
        "kernels": sorted({linear.kind for linear in linears}),
        "threads": threads,
        "weight_bytes": weight_bytes,
        "guarantee": guarantee.name,
        "broken_by": guarantee.broken_by,
        "paddings": sorted(set(paddings)),
        "seconds": {count: seconds[count] for count in ROW_COUNTS},
        "unpadded_seconds": seconds["unpadded"],
        "read_bytes_per_second": bandwidth,
        "step_fraction_of_bandwidth": weight_bytes / seconds[1] / bandwidth,
        "unpadded_fraction_of_bandwidth": weight_bytes / seconds["unpadded"] / bandwidth,
    }


def _forward(model: FlatModel) -> Forward:
    cache = SequenceCache(CONTEXT_TOKENS + max(ROW_COUNTS))
    model.forward([Rows([1] * CONTEXT_TOKENS, cache)])
    cache.commit(CONTEXT_TOKENS)
    return lambda count: model.forward([Rows([1] * count, cache, count)])
