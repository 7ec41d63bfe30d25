"""One stream through the engine with and without drafting: tokens a second as a ratio.

Prompts are the first 64 tokens of held-out files, 96 new tokens each, one thread. Every setting
runs once in each repetition, in turn, so that a noisy machine touches all alike; medians are shown.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from serving.engine.engine import Engine, EngineCounters, EngineLimits
from serving.engine.lean_llama import leanest
from serving.engine.model import FlatModel
from serving.engine.model_drafter import ChainDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.tiny.corpus import read_sources, split, standard_library

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
DRAFT_TOKENS = (0, 1, 2, 3, 4, 6)
TEMPERATURES = (0.0, 0.8)
REPETITIONS = 5
NUM_PROMPTS = 8
PROMPT_TOKENS = 64
NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over all prompts."""

    tokens_per_second: float
    counters: EngineCounters


def run() -> list[dict[str, float]]:
    """Measure every setting and print the table."""
    torch.set_num_threads(1)
    target = _load("target")
    drafter = ChainDrafter(leanest(_load("draft")))
    prompts = _prompts()
    rows = []
    for temperature in TEMPERATURES:
        runs: dict[int, list[Run]] = {count: [] for count in DRAFT_TOKENS}
        _generate(target, drafter, prompts[:1], draft_tokens=2, temperature=temperature)
        for _ in range(REPETITIONS):
            for count in DRAFT_TOKENS:
                engine_drafter = drafter if count else None
                runs[count].append(
                    _generate(
                        target,
                        engine_drafter,
                        prompts,
                        draft_tokens=max(count, 1),
                        temperature=temperature,
                    )
                )
        rows += [_row(temperature, count, runs) for count in DRAFT_TOKENS]
    _show(rows)
    return rows


def _load(role: str) -> FlatModel:
    return FlatModel.load(str(FAMILY / role), device="cpu", dtype=torch.float32)


def _prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / "target")
    files = split(read_sources(standard_library())).held_out
    tokens = [tokenizer.encode(file.text[:2000])[:PROMPT_TOKENS] for file in files]
    return [ids for ids in tokens if len(ids) == PROMPT_TOKENS][:NUM_PROMPTS]


def _generate(
    target: FlatModel,
    drafter: ChainDrafter | None,
    prompts: list[list[int]],
    *,
    draft_tokens: int,
    temperature: float,
) -> Run:
    limits = EngineLimits(kv_bytes=1 << 28, max_sequences=1, max_waiting=1000)
    engine = Engine(
        target, drafter, num_draft_tokens=draft_tokens, limits=limits, eos_ids=frozenset()
    )
    params = SamplingParams(temperature=temperature, max_tokens=NEW_TOKENS)
    for index, prompt in enumerate(prompts):
        engine.add(GenerationRequest(str(index), tuple(prompt), params, seed=index))
    start = time.perf_counter()
    while engine.has_work:
        engine.step()
    seconds = time.perf_counter() - start
    return Run(engine.counters.generation_tokens / seconds, engine.counters)


def _row(temperature: float, count: int, runs: dict[int, list[Run]]) -> dict[str, float]:
    rates = [run.tokens_per_second for run in runs[count]]
    ratios = [
        a.tokens_per_second / b.tokens_per_second for a, b in zip(runs[count], runs[0], strict=True)
    ]
    counters = runs[count][0].counters
    drafted = counters.draft_tokens
    return {
        "temperature": temperature,
        "draft_tokens": count,
        "tokens_per_second": statistics.median(rates),
        "speed_up": statistics.median(ratios),
        "tokens_per_round": counters.acceptance_length,
        "accepted_fraction": counters.accepted_tokens / drafted if drafted else 0.0,
    }


def _show(rows: list[dict[str, float]]) -> None:
    table = Table(title=f"one stream, median of {REPETITIONS} runs, one thread, float32")
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in row.values()))
    Console().print(table)
