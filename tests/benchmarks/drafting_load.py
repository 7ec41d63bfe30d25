"""Drafting under load: never, always four tokens, and left to the calibration.

One and eight streams, both temperatures. The settings take turns within each repetition, so that a
noisy machine touches all alike, and each is compared with the better of the fixed two in the same
repetition. The policy is calibrated once, as at a server's start, and goes on learning.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from serving.engine.drafter import Drafter
from serving.engine.drafting_policy import DraftingPolicy, DraftSize, FixedDrafting
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model import FlatModel
from serving.engine.model_drafter import ChainDrafter, leanest
from serving.engine.round_calibration import calibrate
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.speculation_control import SpeculationControl
from serving.tiny.corpus import read_sources, split, standard_library

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
MOST = DraftSize(8, 8)
ALWAYS = DraftSize(4, 4)
STREAMS = (1, 8)
TEMPERATURES = (0.0, 0.8)
REPETITIONS = 5
NUM_PROMPTS = 16
PROMPT_TOKENS = 64
NEW_TOKENS = 96
KV_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Row:
    """One setting at one load."""

    temperature: float
    streams: int
    drafting: str
    tokens_per_second: float
    tokens_per_round: float
    """Of sequences that drafted."""
    of_better_fixed: float
    """Median share of the better of never and always in the same repetition."""


def run() -> list[dict[str, object]]:
    """Measure every setting and print the table."""
    torch.set_num_threads(1)
    target = FlatModel.load(
        str(FAMILY / "target"), device="cpu", dtype=torch.float32, quantization="float32"
    )
    draft = FlatModel.load(str(FAMILY / "draft"), device="cpu", dtype=torch.float32)
    rows = measure(target, ChainDrafter(leanest(draft)), tiny_prompts())
    table = Table(title=f"chains of the small model, median of {REPETITIONS}, one thread, float32")
    for heading in Row.__slots__:
        table.add_column(heading, justify="right")
    for row in rows:
        values = [getattr(row, name) for name in Row.__slots__]
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    Console().print(table)
    return [{name: getattr(row, name) for name in Row.__slots__} for row in rows]


def tiny_prompts() -> list[list[int]]:
    """Return beginnings of held-out files."""
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / "target")
    files = split(read_sources(standard_library())).held_out
    tokens = [tokenizer.encode(file.text[:2000])[:PROMPT_TOKENS] for file in files]
    return [ids for ids in tokens if len(ids) == PROMPT_TOKENS][:NUM_PROMPTS]


def measure(
    target: FlatModel,
    drafter: Drafter,
    prompts: Sequence[Sequence[int]],
    *,
    most: DraftSize = MOST,
    always: DraftSize = ALWAYS,
    beam_width: int = 1,
    repetitions: int = REPETITIONS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Return never, always and planned drafting at every load and temperature.

    Args:
        target: As it is served.
        drafter: Whose drafts are used.
        prompts: Requests of one pass, each of `NEW_TOKENS` new tokens.
        most: Largest draft that may be planned.
        always: What is always drafted in the fixed setting.
        beam_width: Children of a node that the drafter offers.
        repetitions: Passes of each setting.
        clock: Seconds; `time.process_time` is steadier where one thread shares its processor.
    """
    costs = calibrate(
        target, drafter, most=most, max_sequences=max(STREAMS), kv_bytes=KV_BYTES, clock=clock
    )
    streams = Streams(target, drafter, prompts, clock)
    rows = []
    for temperature, count in itertools.product(TEMPERATURES, STREAMS):
        policies: dict[str, DraftingPolicy] = {
            "never": FixedDrafting(DraftSize(0, 0)),
            "always": FixedDrafting(always),
            "planned": SpeculationControl(costs, device="cpu", most=most, beam_width=beam_width),
        }
        passes: dict[str, list[Pass]] = {name: [] for name in policies}
        for repetition in range(repetitions + 1):
            for name, policy in policies.items():
                done = streams.run(policy, count, temperature, warm=repetition == 0)
                passes[name] += [done] if repetition else []
        rows += _rows(passes, count, temperature)
    return rows


class Pass(NamedTuple):
    """All prompts once."""

    tokens_per_second: float
    tokens_per_round: float


@dataclass(frozen=True, slots=True)
class Streams:
    """Models and prompts, run through a new engine for each pass."""

    target: FlatModel
    drafter: Drafter
    prompts: Sequence[Sequence[int]]
    clock: Callable[[], float]

    def run(
        self, policy: DraftingPolicy, count: int, temperature: float, *, warm: bool = False
    ) -> Pass:
        """Serve all prompts to `count` streams; only as many of them to warm up."""
        engine = Engine(
            self.target,
            self.drafter,
            num_draft_tokens=MOST.num_drafts,
            limits=EngineLimits(kv_bytes=KV_BYTES, max_sequences=count, max_waiting=1000),
            eos_ids=frozenset(),
            drafting=policy,
        )
        params = SamplingParams(temperature=temperature, max_tokens=NEW_TOKENS)
        for index, prompt in enumerate(self.prompts[: count if warm else None]):
            engine.add(GenerationRequest(str(index), tuple(prompt), params, seed=index))
        start = self.clock()
        while engine.has_work:
            engine.step()
        seconds = self.clock() - start
        return Pass(engine.counters.generation_tokens / seconds, engine.counters.acceptance_length)


def _rows(passes: dict[str, list[Pass]], count: int, temperature: float) -> list[Row]:
    pairs = zip(passes["never"], passes["always"], strict=True)
    better = [max(never.tokens_per_second, always.tokens_per_second) for never, always in pairs]
    return [
        Row(
            temperature,
            count,
            name,
            statistics.median(one.tokens_per_second for one in done),
            statistics.median(one.tokens_per_round for one in done),
            statistics.median(
                one.tokens_per_second / best for one, best in zip(done, better, strict=True)
            ),
        )
        for name, done in passes.items()
    ]
