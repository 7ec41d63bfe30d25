"""What verification costs by row count: a 1B-shaped random Llama with every type of weight.

A forward of the decoder and its head at 1 to 32 rows behind a short context, all logits wanted.
c(1) is the fastest single-row forward without padded rows of that type of weight; `step` is the
single-row forward as it is served, padded where that keeps bits or saves time. Read bandwidth is a
float32 sum over 1 GiB (32 times the last-level cache), same process and threads, taken between the
passes; it and the weights are on huge pages where the system has them. Medians of passes over all
row counts; both thread counts are set explicitly. Seconds are of processor time with one thread, of
wall time with two.

The replayed draft's acceptance is set, not earned, and it costs nothing: its speed-up is what
verification allows; it is measured at the first thread count. KERNELS_LAYERS, KERNELS_REPEATS,
KERNELS_KINDS and KERNELS_THREADS shorten a run; the bars are of the whole one.
"""

import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.replayed_chain import replay_rows
from benchmarks.speculation_bars import bars_table, shape_bars
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from serving.engine.cost_curve import ROW_COUNTS
from serving.engine.flat_attention import NAME as FLAT_ATTENTION
from serving.engine.huge_pages import collapse
from serving.engine.invariance import check_model
from serving.engine.kernels import Float32Linear, PackedLinear, Quantization, pack
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel
from serving.engine.packing import packed_linears
from serving.engine.rows import Rows
from serving.engine.shared_product import by_product, pack_group

CONFIG = LlamaConfig(
    hidden_size=2048,
    num_hidden_layers=int(os.environ.get("KERNELS_LAYERS", "22")),
    intermediate_size=5632,
    num_attention_heads=32,
    num_key_value_heads=4,
    vocab_size=32000,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
)
KINDS: tuple[Quantization, ...] = tuple(
    os.environ.get("KERNELS_KINDS", "float32,bfloat16,int8,int4").split(",")
)
THREADS = tuple(map(int, os.environ.get("KERNELS_THREADS", "1,2").split(",")))
REPEATS = int(os.environ.get("KERNELS_REPEATS", "7"))
REPLAY_TOKENS = 32
REPLAY_REPETITIONS = 3
CONTEXT_TOKENS = 64
MOST_ROWS = 48
LAST_LEVEL_CACHE_BYTES = 32 << 20
BANDWIDTH_BYTES = 1 << 30
Forward = Callable[[int], object]


def run() -> list[dict[str, Any]]:
    """Measure every type of weight at each thread count; print the tables and the bars."""
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    for kind in KINDS:
        model = random_model(lambda dense, kind=kind: pack(dense, kind))
        other = SINGLE_ROW_KERNELS.get(kind)
        single = random_model(other) if other else None
        big = torch.ones(BANDWIDTH_BYTES // 4)
        huge_bytes = collapse().huge_bytes
        for threads in THREADS:
            torch.set_num_threads(threads)
            rows.append(_measure(model, single, big, kind, threads))
            rows[-1]["huge_bytes"] = huge_bytes
            if threads == THREADS[0]:
                rows[-1]["replayed"] = replay_rows(
                    model, new_tokens=REPLAY_TOKENS, repetitions=REPLAY_REPETITIONS
                )
            print(f"{time.perf_counter() - start:.0f} s:", rows[-1], flush=True)
        del model, single, big
    _compare_single_rows(rows)
    _show(rows)
    return rows


class SingleRowFloat32(Float32Linear):
    """Float32 weights in the order oneDNN prefers for one row; many rows are slower with it."""

    def __init__(self, dense: nn.Linear) -> None:
        """Reorder for a batch of one."""
        super().__init__(dense)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(dense.weight.detach(), 1)


SINGLE_ROW_KERNELS = {"float32": SingleRowFloat32}
"""Kernels that may beat the served one at one row, unpadded; only c(1) is taken from them."""


def random_model(pack: Callable[[nn.Linear], PackedLinear]) -> FlatModel:
    """Build the shape with random weights, a product at a time: only one is ever dense."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(CONFIG)
    model.set_attn_implementation(FLAT_ATTENTION)
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    for group in by_product(model, names):
        shells = [model.get_submodule(name) for name in group]
        denses = [nn.Linear(s.in_features, s.out_features, bias=False) for s in shells]
        for dense in denses:
            nn.init.normal_(dense.weight, std=0.02)
        for name, packed in zip(group, pack_group(denses, pack), strict=True):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed)
    model.model.embed_tokens = nn.Embedding(CONFIG.vocab_size, CONFIG.hidden_size)
    model.model.rotary_emb = type(model.model.rotary_emb)(CONFIG)
    for name, module in model.named_modules():
        if "norm" in name:
            module.weight = nn.Parameter(torch.ones(CONFIG.hidden_size))
    return FlatModel(model.requires_grad_(False))


def _measure(
    model: FlatModel, single: FlatModel | None, big: Tensor, kind: Quantization, threads: int
) -> dict[str, Any]:
    linears = list(packed_linears(model.model).values())
    weight_bytes = sum(linear.weight_bytes for linear in linears)
    assert weight_bytes >= 4 * LAST_LEVEL_CACHE_BYTES, "weights must come from memory"
    guarantee = check_model(
        model.model,
        most_rows=MOST_ROWS,
        intermediate_size=CONFIG.intermediate_size,
        functions=model.row_functions,
    )
    forward = _forward(model)
    forward_single = _forward(single) if single else None
    paddings = [linear.fewest_rows for linear in linears]
    samples: dict[Any, list[float]] = {}
    # With one thread the processor's own time leaves out what other programs took meanwhile.
    clock = time.process_time if threads == 1 else time.perf_counter

    def sample(key: object, call: Callable[[], object]) -> None:
        start = clock()
        call()
        samples.setdefault(key, []).append(clock() - start)

    for repeat in range(REPEATS + 1):
        sample("bandwidth", big.sum)
        for count in ROW_COUNTS:
            sample(count, lambda count=count: forward(count))
        for linear in linears:
            linear.fewest_rows = 1
        sample("unpadded", lambda: forward(1))
        for linear, padding in zip(linears, paddings, strict=True):
            linear.fewest_rows = padding
        if forward_single:
            sample("single-row kernel", lambda: forward_single(1))
        if repeat == 0:
            samples.clear()  # first touches of memory and code
    seconds = {key: statistics.median(runs) for key, runs in samples.items()}
    bandwidth = BANDWIDTH_BYTES / seconds["bandwidth"]
    unpadded = min(seconds["unpadded"], seconds.get("single-row kernel", math.inf))
    return {
        "kind": kind,
        "kernels": sorted({linear.kind for linear in linears}),
        "threads": threads,
        "weight_bytes": weight_bytes,
        "guarantee": guarantee.name,
        "broken_by": guarantee.broken_by,
        "paddings": sorted(set(paddings)),
        "seconds": {count: seconds[count] for count in ROW_COUNTS},
        "ratios": {count: seconds[count] / unpadded for count in ROW_COUNTS},
        "unpadded_seconds": seconds["unpadded"],
        "single_row_kernel_seconds": seconds.get("single-row kernel"),
        "read_bytes_per_second": bandwidth,
        "step_bytes_per_second": weight_bytes / seconds[1],
        "step_fraction_of_bandwidth": weight_bytes / seconds[1] / bandwidth,
    }


def _forward(model: FlatModel) -> Forward:
    cache = SequenceCache(KVPool.for_tokens(CONTEXT_TOKENS + max(ROW_COUNTS)))
    model.forward([Rows([1] * CONTEXT_TOKENS, cache)])
    cache.commit(CONTEXT_TOKENS)
    return lambda count: model.forward([Rows([1] * count, cache, count)])


def _compare_single_rows(rows: list[dict[str, Any]]) -> None:
    """Put each step's rate as a multiple of float32's at the same thread count."""
    for row in rows:
        for base in rows:
            if (base["kind"], base["threads"]) == ("float32", row["threads"]):
                row["single_row_rate_of_float32"] = base["seconds"][1] / row["seconds"][1]


def _show(rows: list[dict[str, Any]]) -> None:
    layers = CONFIG.num_hidden_layers
    table = Table(
        title=f"1B-shaped Llama, {layers} layers, medians of {REPEATS}; c(M) in ms and over c(1) unpadded"
    )
    headings = ["weights", "threads", *(f"c({count})" for count in ROW_COUNTS), "c(1) unpadded"]
    for heading in [*headings, "GB/s", "of read", "x float32", "guarantee"]:
        table.add_column(heading, justify="right")
    for row in rows:
        unpadded = row["seconds"][1] / row["ratios"][1]
        table.add_row(
            row["kind"],
            str(row["threads"]),
            *(f"{row['seconds'][n] * 1e3:.0f} {row['ratios'][n]:.2f}x" for n in ROW_COUNTS),
            f"{unpadded * 1e3:.0f}",
            f"{row['step_bytes_per_second'] / 1e9:.1f}/{row['read_bytes_per_second'] / 1e9:.1f}",
            f"{row['step_fraction_of_bandwidth']:.0%}",
            f"{row.get('single_row_rate_of_float32', math.nan):.2f}",
            row["guarantee"],
        )
    console = Console(width=190)
    console.print(table)
    console.print(_replay_table(rows))
    console.print(bars_table("1B shape", shape_bars(rows)))


def _replay_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title=f"speed-up with a replayed draft: acceptance is set, not earned, drafting costs nothing; "
        f"{REPLAY_TOKENS} tokens, medians of {REPLAY_REPETITIONS}, wall time"
    )
    headings = ("weights", "threads", "drafted", "acceptance set", "tokens a round", "speed-up")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        for replayed in row.get("replayed", ()):
            table.add_row(
                row["kind"],
                str(row["threads"]),
                str(replayed["draft_tokens"]),
                f"{replayed['set_acceptance']:.0%}",
                f"{replayed['tokens_per_round']:.2f}",
                f"{replayed['speed_up']:.2f}x",
            )
    return table
