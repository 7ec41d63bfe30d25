"""Rivals on the 1B shape: weights of one type at a time, since all at once would not fit in memory.

The draft's acceptance is set by how the weights are made (`rival_models`), not earned.
"""

import random
from typing import Any

from benchmarks import kernels
from benchmarks.rival_models import Pair, random_pair
from benchmarks.speculation_contestants import Contestant
from benchmarks.speculation_race import STREAMS, Entry, Result, race
from benchmarks.speculation_rivals import DRAFT_TOKENS, llama_cpp_entries, vllm_entries
from benchmarks.speculation_settings import Settings
from benchmarks.speculation_tables import as_json, everything, rates_table
from rich.console import Console
from transformers import LlamaConfig

DRAFT_LAYERS = 2
PROMPT_TOKENS = 8
"""Short, so that a text's seconds are those of its steps."""
ONE_STREAM_PROMPTS = 2
BLOCKS = {
    "float32": ("F32", {"float32": ("alone",)}),
    "bfloat16": (None, {"bfloat16": ("alone", "small model")}),
    "int8": ("Q8_0", {}),
    "int4": ("Q4_0", {}),
}
"""Our type of weights, llama.cpp's nearest, and vLLM's with its ways of drafting."""


def run(settings: Settings) -> dict[str, Any]:
    """Measure every type of weight, print a table each, and return them as plain values."""
    shape = LlamaConfig(**{**kernels.CONFIG.to_dict(), "num_hidden_layers": settings.shape_layers})
    pair = random_pair(shape, draft_layers=DRAFT_LAYERS, agreement=settings.shape_agreement)
    numbers = random.Random(0)
    prompts = [
        [numbers.randrange(shape.vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(STREAMS)
    ]
    figures = {}
    for kind in BLOCKS:
        entries = _entries(kind, pair, settings)
        try:
            figures[kind] = _measure(kind, entries, prompts, settings)
        finally:
            for contestant in {e.contestant.name: e.contestant for e in entries}.values():
                contestant.close()
    return figures


def _entries(kind: str, pair: Pair, settings: Settings) -> list[Entry]:
    gguf_kind, vllm_ways = BLOCKS[kind]
    threads = settings.shape_threads
    modes = {
        "none": {"target_quantization": kind},
        "chain": {
            "target_quantization": kind,
            "draft": str(pair.draft),
            "draft_tokens": DRAFT_TOKENS,
        },
    }
    name = f"motley {kind}"
    entries = []
    for mode, label in (("none", name), ("chain", f"{name}, small model")):
        # A process each: an engine loads its own target, and memory is compared.
        options = {
            "threads": threads,
            "streams": STREAMS,
            "model": str(pair.model),
            "modes": {mode: modes[mode]},
        }
        entries.append(
            Entry(label, Contestant(label, "worker_motley", options, is_ours=True), mode)
        )
    if gguf_kind and "llama.cpp" in settings.rivals:
        entries += llama_cpp_entries(pair, gguf_kind, threads=threads, has_lookup=False)
    if "vllm-cpu" in settings.rivals:
        for dtype, ways in vllm_ways.items():
            entries += vllm_entries(pair, dtype, threads=threads, ways=ways)
    return entries


def _measure(
    kind: str, entries: list[Entry], prompts: list[list[int]], settings: Settings
) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "repetitions": settings.shape_repetitions,
        "new_tokens": settings.shape_new_tokens,
        "clock": settings.clock,
    }
    ones = [[number] for number in range(ONE_STREAM_PROMPTS)]
    one = race(entries, ones, prompts, title=f"1B {kind}, one stream", **shared)
    all_at_once = [list(range(STREAMS))]
    title = f"1B {kind}, {STREAMS} streams"
    eight = race(entries, all_at_once, prompts, title=title, is_concurrent=True, **shared)
    base = one[f"motley {kind}"]
    about = (
        f"1B-shaped random target, {settings.shape_layers} layers, {settings.shape_threads} "
        f"thread(s), {settings.shape_new_tokens} new tokens, medians of "
        f"{settings.shape_repetitions}, {settings.clock} time; acceptance is set, not earned"
    )
    console = Console(width=190)
    for words, results in (("one stream", one), (f"{STREAMS} streams", eight)):
        title = f"{kind}, {words}: {about}"
        console.print(rates_table(title, results, base, everything, is_greedy=True))

    def plain(results: dict[str, Result]) -> dict[str, Any]:
        return {name: as_json(result, base, everything) for name, result in results.items()}

    return {"one_stream": plain(one), "eight_streams": plain(eight)}
