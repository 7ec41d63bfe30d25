"""One stream through the engine with every drafter: tokens a second, and what their drafts cost.

Prompts are the first 64 tokens of held-out files, 96 new tokens each, one thread; the target's
linears are packed as the endpoint packs them. Every setting runs once in each repetition, in turn,
so that a noisy machine touches all alike; medians are shown.

Speed-ups and costs are of processor time, which a busy machine changes less than the wall's. The cost
of a draft is its share of a round, in steps of the target without drafting.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer

from planner.model_folder import weights_sha256
from serving.engine.counters import EngineCounters
from serving.engine.draft_tree import DraftTree
from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_folder import load_head
from serving.engine.head_tree_drafter import HeadTreeDrafter
from serving.engine.lean_head import LeanHead
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import ChainDrafter, leanest
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import GenerationRequest, Sequence
from serving.engine.tree_drafter import TreeDrafter
from serving.tiny.corpus import read_sources, split, standard_library

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
TEMPERATURES = (0.0, 0.8)
REPETITIONS = 3
NUM_PROMPTS = 8
PROMPT_TOKENS = 64
NEW_TOKENS = 96
ROWS = 4096
"""Rows of the head's caches."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A drafter, and the nodes of its drafts."""

    name: str
    make: Callable[[TokenModel, LeanHead], Drafter] | None
    num_nodes: int


SETTINGS = (
    Setting("none", None, 0),
    Setting("n-gram 6", lambda _small, _head: NgramDrafter(), 6),
    *(Setting(f"model, chain {n}", lambda small, _: ChainDrafter(small), n) for n in (2, 4, 6)),
    Setting(
        "model, tree 4x12, depth 4",
        lambda small, _: TreeDrafter(small, beam_width=4, depth=4),
        12,
    ),
    *(
        Setting(f"head, chain {n}", lambda _, head: HeadChainDrafter(head, most_rows=ROWS), n)
        for n in (2, 4, 6)
    ),
    Setting(
        "head, tree 2x8, depth 4",
        lambda _, head: HeadTreeDrafter(head, most_rows=ROWS, beam_width=2, depth=4),
        8,
    ),
    Setting(
        "head, tree 4x12, depth 4",
        lambda _, head: HeadTreeDrafter(head, most_rows=ROWS, beam_width=4, depth=4),
        12,
    ),
    Setting(
        "head, tree 4x16, depth 6",
        lambda _, head: HeadTreeDrafter(head, most_rows=ROWS, beam_width=4, depth=6),
        16,
    ),
)


class TimedDrafter:
    """Another drafter, with the processor time it takes."""

    def __init__(self, drafter: Drafter) -> None:
        """Stand in front of `drafter`."""
        self._drafter = drafter
        self.context_tokens = drafter.context_tokens
        self.num_without_room = 0
        self.reads_features = drafter.reads_features
        self.seconds = 0.0

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Time it."""
        start = time.process_time()
        trees = self._drafter.propose(step)
        self.seconds += time.process_time() - start
        return trees

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Time it."""
        start = time.process_time()
        self._drafter.settle(sequence, features_NE)
        self.seconds += time.process_time() - start


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over all prompts."""

    wall_seconds: float
    processor_seconds: float
    draft_seconds: float
    """Processor time, of the above."""
    counters: EngineCounters


def run() -> list[dict[str, object]]:
    """Measure every setting and print the table."""
    torch.set_num_threads(1)
    folder = str(FAMILY / "target")
    target = FlatModel.load(
        folder,
        device="cpu",
        dtype=torch.float32,
        quantization="float32",
        keeps_output_weight=True,
    )
    small = leanest(FlatModel.load(str(FAMILY / "draft"), device="cpu", dtype=torch.float32))
    head = LeanHead(
        load_head(FAMILY / "head", target_sha256=weights_sha256(FAMILY / "target")),
        embedding=target.model.get_input_embeddings().weight,
        output_head=target.output_weight,
    )
    found = prompts()
    rows = []
    for temperature in TEMPERATURES:
        runs: dict[str, list[Run]] = {setting.name: [] for setting in SETTINGS}
        for repetition in range(REPETITIONS + 1):
            for setting in SETTINGS:
                drafter = setting.make(small, head) if setting.make else None
                texts = found if repetition else found[:1]
                run = _generate(target, drafter, setting.num_nodes, texts, temperature)
                if repetition:  # the first warms up
                    runs[setting.name].append(run)
        rows += [_row(temperature, setting, runs) for setting in SETTINGS]
    _show(rows)
    return rows


def prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / "target")
    files = split(read_sources(standard_library())).held_out
    tokens = [tokenizer.encode(file.text[:2000])[:PROMPT_TOKENS] for file in files]
    return [ids for ids in tokens if len(ids) == PROMPT_TOKENS][:NUM_PROMPTS]


def _generate(
    target: FlatModel,
    drafter: Drafter | None,
    num_nodes: int,
    prompts: list[list[int]],
    temperature: float,
) -> Run:
    timed = TimedDrafter(drafter) if drafter else None
    limits = EngineLimits(kv_bytes=1 << 28, max_sequences=1, max_waiting=1000)
    engine = Engine(
        target, timed, num_draft_tokens=max(num_nodes, 1), limits=limits, eos_ids=frozenset()
    )
    params = SamplingParams(temperature=temperature, max_tokens=NEW_TOKENS)
    for index, prompt in enumerate(prompts):
        engine.add(GenerationRequest(str(index), tuple(prompt), params, seed=index))
    wall, processor = time.perf_counter(), time.process_time()
    while engine.has_work:
        engine.step()
    return Run(
        time.perf_counter() - wall,
        time.process_time() - processor,
        timed.seconds if timed else 0.0,
        engine.counters,
    )


def _row(temperature: float, setting: Setting, runs: dict[str, list[Run]]) -> dict[str, object]:
    own, plain = runs[setting.name], runs["none"]
    counters = own[0].counters
    step_seconds = statistics.median(
        run.processor_seconds / run.counters.generation_tokens for run in plain
    )
    rounds = max(counters.drafts, 1)
    cost = statistics.median(run.draft_seconds for run in own) / rounds / step_seconds
    accepted = counters.accepted_tokens / rounds
    return {
        "temperature": temperature,
        "drafter": setting.name,
        "tokens_per_second": statistics.median(
            run.counters.generation_tokens / run.wall_seconds for run in own
        ),
        "tokens_per_processor_second": statistics.median(
            run.counters.generation_tokens / run.processor_seconds for run in own
        ),
        "speed_up": statistics.median(
            b.processor_seconds / a.processor_seconds for a, b in zip(own, plain, strict=True)
        ),
        "tokens_per_round": counters.acceptance_length,
        "draft_cost": cost,
        "accepted_per_cost": accepted / cost if cost else 0.0,
    }


def _show(rows: list[dict[str, object]]) -> None:
    title = f"one stream, median of {REPETITIONS} runs, one thread, packed float32"
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "), justify="right")
    for row in rows:
        cells = [
            f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()
        ]
        table.add_row(*cells)
    Console().print(table)
