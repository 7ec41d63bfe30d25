"""Pre-drafting: what drafting while the target verifies gains, on and off in turn.

Above: a random target of 59 million weights verifies on the processor, one thread, packed float32;
the draft's device is one of set latency that uses no processor (`replayed_ahead.py`): a chain of 4
takes a stated share of a round without drafting, which verifies 5 rows. Its acceptance is set, not earned; where a token is
refused, its second likeliest is the target's choice with a set chance. `ideal` is the gain were every
draft ready: (draft + verify) / max(draft, verify); `expected` the one at the measured share of drafts
that were, on (draft + verify) / (verify + (1 - ready) * draft), which knows of no thread beside.

Below, the honest rows: the shipped small model and head draft on the processor that the shipped
target verifies on, with one thread and with all cores. Nothing idles there, so nothing is to be gained.

Texts are compared with those made without drafts in every run. Medians of the repetitions.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from benchmarks.drafting import FAMILY, prompts
from benchmarks.replayed_ahead import ReplayedAhead, SleepingWorker
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.flat_attention import NAME as FLAT_ATTENTION
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_folder import load_head
from serving.engine.lean_head import LeanHead
from serving.engine.model import FlatModel
from serving.engine.model_drafter import ChainDrafter, leanest
from serving.engine.packing import replace_linears
from serving.engine.pre_drafting import ChainAhead, PreDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest

REPETITIONS = int(os.environ.get("MOTLEY_BENCH_REPETITIONS", "5"))
NUM_PROMPTS = int(os.environ.get("MOTLEY_BENCH_PROMPTS", "1"))
NEW_TOKENS = 64
NUM_DRAFTS = 4
SHARES = (0.1, 0.3, 0.6, 1.0)
"""Of the target's verification, that drafting takes."""
ACCEPTANCES = ((0.6, 0.4), (0.8, 0.4), (1.0, 0.0))
"""Of a drafted token, and of the second likeliest where that is refused: set."""
CONFIG = LlamaConfig(
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=4,
    num_attention_heads=16,
    vocab_size=4096,
    max_position_embeddings=1024,
    tie_word_embeddings=False,
)
ROWS = 4096
"""Rows of the head's caches."""


@dataclass(frozen=True, slots=True)
class Run:
    """All prompts, one after the other or side by side."""

    seconds: float
    processor_seconds: float
    num_tokens: int
    num_rounds: int
    ready: float = 0.0
    """Share of the drafts that were ready."""
    late: float = 0.0
    """Share of the rounds that ended before drafting ahead did."""
    waited_seconds: float = 0.0
    """Of a round, waiting for the draft to stop."""


@dataclass(frozen=True, slots=True)
class Row:
    """Drafting ahead on against off."""

    draft: str
    streams: int
    draft_share: float | None
    """Of the verification, that drafting takes; None where it is a real draft."""
    acceptance: str
    off_rounds_per_second: float
    on_rounds_per_second: float
    off_tokens_per_second: float
    on_tokens_per_second: float
    gain: float
    """On over off, tokens a second of the same repetition."""
    expected: float | None
    ideal: float | None
    ready: float
    late: float
    waited_milliseconds: float
    processor_ratio: float
    """Processor time on over off."""


def run() -> list[dict[str, object]]:
    """Measure and print."""
    target = FlatModel.load(
        str(FAMILY / "target"),
        device="cpu",
        dtype=torch.float32,
        quantization="float32",
        keeps_output_weight=True,
    )
    found = prompts()[:NUM_PROMPTS]
    torch.set_num_threads(1)
    large, numbers = random_target(), [list(range(3 + index, 67)) for index in range(NUM_PROMPTS)]
    rows = [*_set_rows(large, numbers, 1), *_set_rows(large, numbers, 4, ((0.8, 0.4),), (0.3,))]
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        rows += _real_rows(target, found, threads)
    torch.set_num_threads(1)
    show(rows)
    return [asdict(row) for row in rows]


def random_target() -> FlatModel:
    """Build a target whose operations are large beside what Python adds to each."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    model.set_attn_implementation(FLAT_ATTENTION)
    model.requires_grad_(False)
    replace_linears(model, "float32")
    return FlatModel(model)


def _set_rows(
    target: FlatModel,
    found: list[list[int]],
    streams: int,
    acceptances: tuple[tuple[float, float], ...] = ACCEPTANCES,
    shares: tuple[float, ...] = SHARES,
) -> Iterator[Row]:
    """Yield the rows of set latencies; a round's own time is that of a draft that takes none."""
    texts, _ = generate(target, None, found, streams)
    known = {name: [*found[int(name) % len(found)], *text] for name, text in texts.items()}
    for acceptance, second in acceptances:

        def make(seconds: float, a: float = acceptance, s: float = second) -> ReplayedAhead:
            worker = SleepingWorker(seconds)
            return ReplayedAhead(worker, known, acceptance=a, second_acceptance=s, seed=7)

        free = [_checked(target, make(0.0), found, streams, texts) for _ in range(REPETITIONS)]
        verify = statistics.median(each.seconds / each.num_rounds for each in free)
        for share in shares:
            yield _compared(
                f"{share:.0%} of verifying",
                lambda share=share, verify=verify: make(share * verify / NUM_DRAFTS),
                target,
                found,
                streams,
                texts,
                share=share,
                acceptance=f"{acceptance:g}, then {second:g}",
            )


def _real_rows(target: FlatModel, found: list[list[int]], threads: int) -> Iterator[Row]:
    draft = leanest(FlatModel.load(str(FAMILY / "draft"), device="cpu", dtype=torch.float32))
    head = load_head(FAMILY / "head", target_sha256=None, device="cpu", dtype=torch.float32)
    embedding = target.model.get_input_embeddings().weight
    lean = LeanHead(head, embedding=embedding, output_head=target.output_weight)
    texts, _ = generate(target, None, found, 1)
    makers: dict[str, Callable[[], ChainAhead]] = {
        "small model": lambda: ChainDrafter(draft, vocabulary_size=target.vocabulary_size),
        "head": lambda: HeadChainDrafter(lean, most_rows=ROWS),
    }
    cores = "1 thread" if threads == 1 else f"{threads} threads"
    for name, make in makers.items():
        yield _compared(
            f"{name}, shared cores, {cores}", make, target, found, 1, texts, acceptance="earned"
        )


def _compared(
    name: str,
    make: Callable[[], ChainAhead],
    target: FlatModel,
    found: list[list[int]],
    streams: int,
    texts: dict[str, list[int]],
    *,
    share: float | None = None,
    acceptance: str,
) -> Row:
    off, on = [], []
    for _ in range(REPETITIONS):
        off.append(_checked(target, make(), found, streams, texts))
        ahead = PreDrafter(make())
        on.append(_checked(target, ahead, found, streams, texts))

    def median(runs: list[Run], of: Callable[[Run], float]) -> float:
        return statistics.median(map(of, runs))

    ready = median(on, lambda each: each.ready)
    return Row(
        draft=name,
        streams=streams,
        draft_share=share,
        acceptance=acceptance,
        off_rounds_per_second=median(off, lambda each: each.num_rounds / each.seconds),
        on_rounds_per_second=median(on, lambda each: each.num_rounds / each.seconds),
        off_tokens_per_second=median(off, lambda each: each.num_tokens / each.seconds),
        on_tokens_per_second=median(on, lambda each: each.num_tokens / each.seconds),
        gain=statistics.median(
            (b.num_tokens / b.seconds) / (a.num_tokens / a.seconds)
            for a, b in zip(off, on, strict=True)
        ),
        expected=None if share is None else expected_gain(share, ready**streams),
        ideal=None if share is None else ideal_gain(share),
        ready=ready,
        late=median(on, lambda each: each.late),
        waited_milliseconds=median(on, lambda each: 1e3 * each.waited_seconds),
        processor_ratio=statistics.median(
            b.processor_seconds / a.processor_seconds for a, b in zip(off, on, strict=True)
        ),
    )


def ideal_gain(share: float) -> float:
    """Return what drafting behind verification gains were every draft ready; shares of verifying."""
    return (1 + share) / max(1.0, share)


def expected_gain(share: float, ready: float) -> float:
    """Return the gain where that share of rounds needs no draft of its own, and no more than that."""
    return (1 + share) / (ready * max(1.0, share) + (1 - ready) * (1 + share))


def _checked(
    target: FlatModel,
    drafter: Drafter,
    found: list[list[int]],
    streams: int,
    texts: dict[str, list[int]],
) -> Run:
    made, result = generate(target, drafter, found, streams)
    assert made == texts, "drafting changed a token"
    return result


def generate(
    target: FlatModel, drafter: Drafter | None, found: list[list[int]], streams: int
) -> tuple[dict[str, list[int]], Run]:
    """Decode every prompt greedily, so many at once, and return the texts and how it went."""
    engine = Engine(
        target,
        drafter,
        num_draft_tokens=NUM_DRAFTS,
        limits=EngineLimits(kv_bytes=1 << 28, max_sequences=streams, max_waiting=1000),
        eos_ids=frozenset(),
    )
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    texts: dict[str, list[int]] = {}
    for index in range(max(streams, len(found))):
        texts[str(index)] = []
        prompt = tuple(found[index % len(found)])
        engine.add(GenerationRequest(str(index), prompt, params, seed=0))
    wall, processor, rounds = time.perf_counter(), time.process_time(), 0
    while engine.has_work:
        rounds += engine.num_decoding > 0
        for output in engine.step():
            texts[output.request_id] += output.tokens
    seconds, processor = time.perf_counter() - wall, time.process_time() - processor
    engine.close()
    counts = engine.pre_drafts
    num_tokens = sum(map(len, texts.values()))
    if counts is None:
        return texts, Run(seconds, processor, num_tokens, rounds)
    assert counts.failures == 0, "drafting ahead failed; see the log"
    return texts, Run(
        seconds,
        processor,
        num_tokens,
        rounds,
        ready=counts.used / max(counts.asked, 1),
        late=counts.late / rounds,
        waited_seconds=counts.waited_seconds / rounds,
    )


def show(rows: list[Row]) -> None:
    """Print the table."""
    table = Table(
        title=f"pre-drafting on against off, target on the processor, chains of {NUM_DRAFTS}, "
        f"greedy, {NEW_TOKENS} tokens, medians of {REPETITIONS}; drafts of a share of verifying are "
        "a device of set latency and set acceptance"
    )
    for heading in (
        "draft",
        "streams",
        "acceptance",
        "off rounds/s",
        "on",
        "off tokens/s",
        "on",
        "gain",
        "expected",
        "ideal",
        "ready",
        "late",
        "waited ms/round",
        "processor time",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.draft,
            str(row.streams),
            row.acceptance,
            f"{row.off_rounds_per_second:.1f}",
            f"{row.on_rounds_per_second:.1f}",
            f"{row.off_tokens_per_second:.0f}",
            f"{row.on_tokens_per_second:.0f}",
            f"{row.gain:.2f}x",
            "" if row.expected is None else f"{row.expected:.2f}x",
            "" if row.ideal is None else f"{row.ideal:.2f}x",
            f"{row.ready:.0%}",
            f"{row.late:.0%}",
            f"{row.waited_milliseconds:.2f}",
            f"{row.processor_ratio:.2f}x",
        )
    Console(width=170).print(table)
