"""Draft on a GPU, target on the processor: what drafting gains over our best step without it.

A Llama of Llama-2-7B's shape with random float32 weights stays on the processor, packed as it is
served. A draft of Dovetail's size (five layers of the target's width, its own embedding and head;
1.27 of the paper's 1.34 billion weights: the gating fusion is not among them) works on the GPU in
bfloat16, growing a tree of beam 10; features of every emitted token are copied to it. What it guesses
is thrown away: guesses are replayed with a stated acceptance (`set_acceptance`), and the engine
verifies, accepts and rolls back as ever. Rows: the tiny Dovetail head's greedy acceptance by depth
from its card, never altered, and tau = 2, 3, 4, 5 tokens a round by equal acceptance at every depth.

The bar of a row is 0.85 tau / (c(M) / c(1)): drafting and copies hide or cost at most 15 %; c(M) is the
target's forward at the tree's rows, from the same process and context. The first row whose
tau / (c(M) / c(1)) allows 2.77 must reach it (Dovetail's own figure, arXiv 2412.18934v1, abstract).
Threads are those of the fastest single-row step. Copies are counted in a run of their own. A table of
its own compares drafting ahead of the verification, on and off, with chains (`speculation_gpu_ahead`);
drafting's share of a round in the first table is the most that it could hide.

`MOTLEY_BENCH_DRAFT_DEVICE=cpu` runs the same on the processor alone, at a small size.
`MOTLEY_BENCH_LAYERS` and `MOTLEY_BENCH_NEW_TOKENS` make it shorter.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from benchmarks.bus_bytes import BusBytes
from benchmarks.set_acceptance import ReplayingDrafter, rates_for, tokens_per_round
from benchmarks.speculation_gpu_ahead import ahead_rows, ahead_table
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from serving.engine.cost_curve import CostCurve, measure_curve
from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.flat_attention import NAME as FLAT_ATTENTION
from serving.engine.invariance import check_model
from serving.engine.kernels import pack
from serving.engine.lean_decoder import LeanDecoder
from serving.engine.model import FlatModel
from serving.engine.pages import PAGE_TOKENS
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.spans import MOST_TREE_ROWS
from serving.engine.tree_drafter import TreeDrafter

DEVICE = os.environ.get("MOTLEY_BENCH_DRAFT_DEVICE", "cuda:0")
IS_SMALL = DEVICE == "cpu"
NEW_TOKENS = int(os.environ.get("MOTLEY_BENCH_NEW_TOKENS", "64"))
SHAPE = {
    "hidden_size": 256 if IS_SMALL else 4096,
    "intermediate_size": 688 if IS_SMALL else 11008,
    "num_attention_heads": 4 if IS_SMALL else 32,
    "num_key_value_heads": 4 if IS_SMALL else 32,
    "vocab_size": 2000 if IS_SMALL else 32000,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
TARGET_LAYERS = int(os.environ.get("MOTLEY_BENCH_LAYERS", "4" if IS_SMALL else "32"))
DRAFT_LAYERS = 1 if IS_SMALL else 5
NUM_NODES = 15
"""With the root's place 16 rows: the released Dovetail's tree, its depth and its beam."""
DEPTH = 7
BEAM_WIDTH = 2 if IS_SMALL else 10
TAUS = (2.0, 3.0, 4.0, 5.0)
MARGIN = 0.85
PUBLISHED_SPEED_UP = 2.77
PAGES_AHEAD = 16
"""For drafting ahead: of the draft's pool, which has as many pages as the target's."""
PROMPT = tuple(range(3, 67))
HEAD_CARD = Path(__file__).parents[2] / "serving" / "models" / "tiny" / "head" / "card.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One stated acceptance."""

    acceptance: str
    tau: float
    """Tokens a round as stated."""
    tokens_per_round: float
    """As counted."""
    tokens_per_second: float
    speed_up: float
    """Over decoding without drafting, same process and threads."""
    bar: float
    allowed: float
    """tau / (c(M) / c(1)): drafting and copies free of cost."""
    draft_fraction: float
    """Of a round's time, spent waiting for the draft."""
    bus_bytes_per_round: float

    @property
    def is_met(self) -> bool:
        """Whether the bar is met."""
        return self.speed_up >= self.bar


def run() -> dict[str, object]:
    """Measure and print the table; without a GPU, say in one line that it needs one."""
    if DEVICE != "cpu" and not torch.cuda.is_available():
        print(
            "speculation-gpu needs a CUDA device; MOTLEY_BENCH_DRAFT_DEVICE=cpu runs the same on the "
            "processor at a small size"
        )
        return {"ran": False}
    target = random_target()
    curve = _best_threads(target)
    plain = _decode(target, None)
    draft = random_draft()
    worker = TimedDrafter(TreeDrafter(draft, beam_width=BEAM_WIDTH, depth=DEPTH))
    ratio = curve.ratio(NUM_NODES + 1)
    rows = [
        _measure(name, rates, target, worker, plain, ratio) for name, rates in acceptances().items()
    ]
    _show(rows, curve, plain)
    ahead = ahead_rows(
        draft,
        lambda drafter: _decode(target, drafter, num_drafts=DEPTH),
        {"text": PROMPT + plain.tokens},
        taus=TAUS,
        depth=DEPTH,
        device=DEVICE,
    )
    Console(width=150).print(ahead_table(ahead, depth=DEPTH))
    return {
        "ran": True,
        "shape": SHAPE | {"num_hidden_layers": TARGET_LAYERS},
        "draft": {"device": DEVICE, "name": _device_name(), "layers": DRAFT_LAYERS},
        "curve": curve.as_json(),
        "plain_tokens_per_second": plain.tokens_per_second,
        "rows": [asdict(row) | {"is_met": row.is_met} for row in rows],
        "published": published_bar(rows),
        "pre_drafting": [asdict(row) for row in ahead],
    }


def acceptances() -> dict[str, list[float]]:
    """Return acceptance by depth of every row: the tiny head's as its card has it, and set ones."""
    card = json.loads(HEAD_CARD.read_text())
    head = {"tiny head": list(card["comparison"]["head"]["greedy_fractions"])}
    return head | {f"tau {tau:g}": rates_for(tau, DEPTH) for tau in TAUS}


def published_bar(rows: Sequence[Row]) -> dict[str, object] | None:
    """Return whether the first row that allows the published speed-up reaches it; None: no row does."""
    for row in rows:
        if row.allowed >= PUBLISHED_SPEED_UP:
            is_met = row.speed_up >= PUBLISHED_SPEED_UP
            return {"row": row.acceptance, "speed_up": row.speed_up, "is_met": is_met}
    return None


class TimedDrafter:
    """A drafter whose `propose` is timed."""

    reads_features = False

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self.seconds = 0.0
        self.context_tokens = drafter.context_tokens
        self.num_without_room = 0

    def propose(self, step):
        """Propose; what the device was asked is done by then, since ids come back."""
        start = time.perf_counter()
        trees = self._drafter.propose(step)
        self.seconds += time.perf_counter() - start
        return trees

    def settle(self, sequence, *others) -> None:
        """Settle."""
        self._drafter.settle(sequence, *others)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One text."""

    tokens: tuple[int, ...]
    seconds: float
    """From the first token on."""
    tokens_per_round: float
    num_rounds: int

    @property
    def tokens_per_second(self) -> float:
        """Rate behind the first token."""
        return (len(self.tokens) - 1) / self.seconds


def random_target() -> FlatModel:
    """Build the target a layer at a time, packed as it is served: only one linear is ever dense."""
    config = LlamaConfig(**SHAPE, num_hidden_layers=TARGET_LAYERS)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.set_attn_implementation(FLAT_ATTENTION)
    for name in [name for name, module in model.named_modules() if type(module) is nn.Linear]:
        shell = model.get_submodule(name)
        dense = nn.Linear(shell.in_features, shell.out_features, bias=False, device="meta")
        weight = torch.empty(shell.out_features, shell.in_features).uniform_(-0.03, 0.03)
        dense.weight = nn.Parameter(weight, requires_grad=False)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, pack(dense, "float32"))
    model.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    for name, module in model.named_modules():
        if "norm" in name:
            module.weight = nn.Parameter(torch.ones(config.hidden_size))
    check_model(model, most_rows=NUM_NODES + 1 + len(PROMPT))
    return FlatModel(model.requires_grad_(False))


def random_draft() -> LeanDecoder:
    """Build the draft on its device."""
    config = LlamaConfig(**SHAPE, num_hidden_layers=DRAFT_LAYERS)
    dtype = torch.float32 if IS_SMALL else torch.bfloat16
    torch.manual_seed(1)
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config).to(dtype)
    return LeanDecoder(model.requires_grad_(False), is_fused=True)


def _best_threads(target: FlatModel) -> CostCurve:
    """Set the threads of the fastest single-row step; return the target's curve with them."""
    cores = os.cpu_count() or 1
    candidates = {cores, max(1, cores - 1), max(1, cores // 2)}
    if "OMP_NUM_THREADS" in os.environ:
        candidates = {torch.get_num_threads()}
    seconds = {}
    for threads in sorted(candidates):
        torch.set_num_threads(threads)
        curve = measure_curve(target, name="target", row_counts=(1,), most_seconds=5)
        seconds[threads] = curve.seconds_by_rows[1]
    torch.set_num_threads(min(seconds, key=seconds.__getitem__))
    return measure_curve(target, name="target", row_counts=(1, NUM_NODES + 1), most_seconds=30)


def _decode(target: FlatModel, drafter: Drafter | None, *, num_drafts: int = NUM_NODES) -> Decoded:
    """Decode one text greedily, timed from behind the prompt on.

    It stops before the text's end, near which rounds draft less.
    """
    most_tokens = NEW_TOKENS + 2 * DEPTH
    num_rows = len(PROMPT) + most_tokens + PAGE_TOKENS + MOST_TREE_ROWS
    num_rows += PAGES_AHEAD * PAGE_TOKENS
    engine = Engine(
        target,
        drafter,
        num_draft_tokens=num_drafts,
        limits=EngineLimits(
            kv_bytes=num_rows * target.kv_bytes_per_token, max_sequences=1, max_waiting=1
        ),
        eos_ids=frozenset(),
    )
    params = SamplingParams(temperature=0.0, max_tokens=most_tokens)
    engine.add(GenerationRequest("text", PROMPT, params, seed=0))
    tokens: tuple[int, ...] = ()
    while not tokens:
        tokens += _step(engine)
    start = time.perf_counter()
    rounds = 0
    num_wanted = NEW_TOKENS if drafter else most_tokens
    while len(tokens) < num_wanted:
        tokens += _step(engine)
        rounds += 1
    seconds = time.perf_counter() - start
    return Decoded(tokens, seconds, engine.counters.acceptance_length, rounds)


def _step(engine: Engine) -> tuple[int, ...]:
    return tuple(token for output in engine.step() for token in output.tokens)


def _measure(
    name: str,
    rates: list[float],
    target: FlatModel,
    worker: TimedDrafter,
    plain: Decoded,
    ratio: float,
) -> Row:
    def replaying() -> ReplayingDrafter:
        return ReplayingDrafter(
            worker,
            {"text": PROMPT + plain.tokens},
            rates,
            vocabulary_size=target.vocabulary_size,
            features=(target.config.hidden_size, torch.device(DEVICE)),
        )

    with BusBytes() as bus:
        counted = _decode(target, replaying())  # and the device's first touches
    worker.seconds = 0.0
    decoded = _decode(target, replaying())
    assert decoded.tokens == plain.tokens[: len(decoded.tokens)], "drafting changed a token"
    tau = tokens_per_round(rates)
    return Row(
        acceptance=name,
        tau=tau,
        tokens_per_round=decoded.tokens_per_round,
        tokens_per_second=decoded.tokens_per_second,
        speed_up=decoded.tokens_per_second / plain.tokens_per_second,
        bar=MARGIN * tau / ratio,
        allowed=tau / ratio,
        draft_fraction=worker.seconds / decoded.seconds,
        bus_bytes_per_round=bus.num_bytes / counted.num_rounds,
    )


def _device_name() -> str:
    return "processor" if DEVICE == "cpu" else torch.cuda.get_device_name(DEVICE)


def _show(rows: Sequence[Row], curve: CostCurve, plain: Decoded) -> None:
    table = Table(
        title=f"draft on {_device_name()}, target of {TARGET_LAYERS} layers on the processor in "
        f"float32, {curve.threads} threads; without drafting {plain.tokens_per_second:.3g} "
        f"tokens/s; M = {NUM_NODES + 1}, c(M)/c(1) = {curve.ratio(NUM_NODES + 1):.2f}; {NEW_TOKENS} "
        "tokens; acceptance is set, not earned"
    )
    headings = ("acceptance", "tau", "counted", "tokens/s", "speed-up", "bar", "", "drafting")
    for heading in (*headings, "bus bytes/round"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.acceptance,
            f"{row.tau:.2f}",
            f"{row.tokens_per_round:.2f}",
            f"{row.tokens_per_second:.3g}",
            f"{row.speed_up:.2f}x",
            f"{row.bar:.2f}x",
            "met" if row.is_met else "missed",
            f"{row.draft_fraction:.0%}",
            f"{row.bus_bytes_per_round:,.0f}",
        )
    console = Console(width=150)
    console.print(table)
    found = published_bar(rows)
    if found is None:
        most = max(row.allowed for row in rows)
        console.print(f"{PUBLISHED_SPEED_UP}x: no row's tau allows it (the most is {most:.2f}x)")
    else:
        words = "met" if found["is_met"] else "missed"
        console.print(f"{PUBLISHED_SPEED_UP}x in row {found['row']}: {words}")
