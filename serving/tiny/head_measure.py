"""Measures the family's head beside its small model: acceptance by depth, cost of a round.

Shape letter: n tokens of a text.
"""

import logging
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from serving.draft_training.acceptance import DEPTHS, Acceptance, follow, head_acceptance
from serving.draft_training.frozen import FrozenTarget
from serving.engine.dovetail_head import DovetailHead
from serving.engine.head_rows import HeadRows
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.lean_head import LeanHead
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import leanest
from serving.engine.rows import Rows
from serving.tiny.export import load_model
from serving.tiny.head_card import DraftComparison, DraftFigures, RoundFigures

logger = logging.getLogger(__name__)

PREFIX_TOKENS = 64
"""Held-out tokens the target continues."""
NEW_TOKENS = 128
"""Tokens of one continuation."""
PAST_TOKENS = 128
"""Tokens behind which the target's steps run."""
ROUNDS = (1, 2, 3, 4, 5)
"""Drafted tokens of the rounds that are timed."""
TIMED_TEXTS = 6
"""Texts that are decoded again to time rounds."""
STEPS = 50
"""Target steps at one row that are timed; the median counts."""
TEMPERATURE = 0.8
"""Of the drawn texts."""

Draft = Callable[[int, int], list[int]]
"""Takes how many tokens of a text are known, and how many to guess behind them."""


def compare_drafts(
    head: DovetailHead, target: FrozenTarget, small_folder: Path, *, texts: list[Tensor]
) -> DraftComparison:
    """Judge and time both drafts for one target, one after the other on the same texts.

    Args:
        head: As it ships.
        target: The target.
        small_folder: Folder of the small model.
        texts: Held-out texts, the end-of-text id first. Shape: (n,) each.
    """
    small = load_model(small_folder)
    read = [(ids, target.features(ids)) for ids in texts]
    greedy = continuations(target, texts, temperature=0.0)
    drawn = continuations(target, texts, temperature=TEMPERATURE)
    starts = torch.cat((torch.zeros(PREFIX_TOKENS - 1), torch.ones(NEW_TOKENS + 1)))
    on_text = _both(head, small, target, read, mask=None)
    on_greedy = _both(head, small, target, greedy, mask=starts)
    target_seconds, greedy_rounds = time_rounds(head, target, small_folder, greedy)
    _, drawn_rounds = time_rounds(head, target, small_folder, drawn)
    figures = [
        DraftFigures(
            text_fractions=_rounded(on_text[index]),
            greedy_fractions=_rounded(on_greedy[index]),
            greedy_rounds=greedy_rounds[index],
            drawn_rounds=drawn_rounds[index],
        )
        for index in range(2)
    ]
    capability = torch.backends.cpu.get_cpu_capability()
    return DraftComparison(
        num_text_tokens=sum(len(ids) - 1 for ids in texts),
        num_greedy_tokens=NEW_TOKENS * len(greedy),
        target_step_seconds=target_seconds,
        head=figures[0],
        small_model=figures[1],
        hardware=f"{platform.machine()} with {capability}, one thread, float32",
    )


def _both(
    head: DovetailHead,
    small: LlamaForCausalLM,
    target: FrozenTarget,
    texts: list[tuple[Tensor, Tensor]],
    *,
    mask: Tensor | None,
) -> tuple[Acceptance, Acceptance]:
    """Return how head and small model fare on texts with their features."""
    ours, theirs = Acceptance(), Acceptance()
    for ids, features in texts:
        ours += head_acceptance(
            head,
            embedding=target.embedding,
            output_head=target.output_head,
            ids=ids,
            features=features,
            mask=mask,
        )
        theirs += model_acceptance(small, target, ids=ids, features=features, mask=mask)
    return ours, theirs


@torch.inference_mode()
def model_acceptance(
    model: LlamaForCausalLM,
    target: FrozenTarget,
    *,
    ids: Tensor,
    features: Tensor,
    mask: Tensor | None = None,
) -> Acceptance:
    """Judge chains of a small model on the places where `head_acceptance` judges a head.

    A chain that was right so far has read the text itself, so one forward over the text holds all
    guesses.
    """
    true_n = (features @ target.output_head.T).argmax(-1)
    guess_n = model(input_ids=ids[None], use_cache=False).logits[0].argmax(-1)
    depths = min(DEPTHS, len(ids) - 1)
    guesses = [guess_n[depth:] for depth in range(1, depths + 1)]
    starts = None if mask is None else mask[1:] > 0
    return follow(guesses, true_n=true_n[1:], ids=ids[1:], starts=starts)


@torch.inference_mode()
def continuations(
    target: FrozenTarget, texts: list[Tensor], *, temperature: float
) -> list[tuple[Tensor, Tensor]]:
    """Return beginnings of texts, each with the target's own text behind it, and features.

    Args:
        target: The target.
        texts: Those shorter than `PREFIX_TOKENS` are left out.
        temperature: 0 is greedy; else tokens are drawn, seeded.
    """
    ids_Bn = torch.stack([ids[:PREFIX_TOKENS] for ids in texts if len(ids) >= PREFIX_TOKENS])
    generator = torch.Generator().manual_seed(0)
    cache = None
    step_Bn = ids_Bn
    for _ in range(NEW_TOKENS):
        output = target.model(input_ids=step_Bn, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1]
        if temperature:
            probs = torch.softmax(logits / temperature, dim=-1)
            step_Bn = torch.multinomial(probs, 1, generator=generator)
        else:
            step_Bn = logits.argmax(-1, keepdim=True)
        ids_Bn = torch.cat((ids_Bn, step_Bn), dim=1)
    return [(ids, target.features(ids)) for ids in ids_Bn]


class _HeadChain:
    """Chains of the head along a text; true features come in as rounds verify tokens."""

    def __init__(self, lean: LeanHead, ids: list[int], features: Tensor) -> None:
        self._lean, self._ids, self._features = lean, ids, features
        self._cache = lean.new_cache(len(ids) + max(ROUNDS))

    def draft(self, known: int, count: int) -> list[int]:
        """Return guesses behind the first `known` tokens of the text."""
        fed = self._cache.length
        tokens, features = self._ids[fed + 1 : known], self._features[fed : known - 1]
        output = self._lean.prefill([HeadRows(tokens, features, self._cache)])
        guesses = output.logits_TV.argmax(-1).tolist()
        for depth in range(1, count):
            rows = HeadRows(guesses[-1:], output.features_TE, self._cache, depths=(depth,))
            output = self._lean.step([rows])
            guesses += output.logits_TV.argmax(-1).tolist()
        return guesses


class _ModelChain:
    """Chains of a small model along a text; rejected rows are rolled back."""

    def __init__(self, model: TokenModel, ids: list[int]) -> None:
        self._model, self._ids = model, ids
        self._cache = SequenceCache(KVPool.for_tokens(len(ids) + max(ROUNDS)))
        self._guesses: list[int] = []
        self._known = 0

    def draft(self, known: int, count: int) -> list[int]:
        """Return guesses behind the first `known` tokens of the text."""
        self._cache.roll_back(min(self._cache.length, self._kept(known)))
        guesses: list[int] = []
        for _ in range(count):
            tokens = (self._ids[:known] + guesses)[self._cache.length :]
            guesses += self._model.forward([Rows(tokens, self._cache)]).argmax(-1).tolist()
            self._cache.commit(len(tokens))
        self._guesses = guesses
        self._known = known
        return guesses

    def _kept(self, known: int) -> int:
        """Return how many cached tokens came true."""
        if not self._guesses:
            return 0
        kept = self._known
        while kept < known and self._guesses[kept - self._known : kept - self._known + 1] == [
            self._ids[kept]
        ]:
            kept += 1
        return kept


def time_rounds(
    head: DovetailHead,
    target: FrozenTarget,
    small_folder: Path,
    texts: list[tuple[Tensor, Tensor]],
    *,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, tuple[dict[int, RoundFigures], dict[int, RoundFigures]]]:
    """Decode texts of the target again, in rounds of each length, with head and small model.

    A guess is accepted where it is the text's token. Between rounds the target takes in what the
    round drafted, so that drafts find the processor's caches as in decoding. Processor time of one
    thread, so that a busy machine changes little.

    Returns:
        Seconds of a target step at one row, and rounds of head and small model by drafted tokens.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step = _steps(_load(str(target.model.config.name_or_path)))
        small = leanest(_load(str(small_folder)))
        lean = LeanHead(head, embedding=target.embedding, output_head=target.output_head)
        single = sorted(_seconds(lambda: step(1), clock) for _ in range(STEPS))
        rounds: tuple[dict[int, RoundFigures], dict[int, RoundFigures]] = ({}, {})
        for count in ROUNDS:
            runs: tuple[list[tuple[int, float]], list[tuple[int, float]]] = ([], [])
            for ids, features in texts[:TIMED_TEXTS]:
                words = ids.tolist()
                drafts: tuple[Draft, Draft] = (
                    _HeadChain(lean, words, features).draft,
                    _ModelChain(small, words).draft,
                )
                for draft, seen in zip(drafts, runs, strict=True):
                    seen += _along(draft, words, count, step=step, clock=clock)
            for seen, figures in zip(runs, rounds, strict=True):
                figures[count] = RoundFigures(
                    accepted=round(statistics.mean(accepted for accepted, _ in seen), 3),
                    seconds=round(statistics.median(seconds for _, seconds in seen), 6),
                )
    finally:
        torch.set_num_threads(threads)
    return round(statistics.median(single), 6), rounds


def _along(
    draft: Draft,
    ids: list[int],
    count: int,
    *,
    step: Callable[[int], object],
    clock: Callable[[], float],
) -> list[tuple[int, float]]:
    """Return accepted tokens and seconds of drafting of each round along one text."""
    known = PREFIX_TOKENS
    draft(known - 1, 1)  # the prompt is no round
    rounds = []
    while known + count <= len(ids):
        step(count + 1)
        start = clock()
        guesses = draft(known, count)
        seconds = clock() - start
        pairs = zip(guesses, ids[known : known + count], strict=True)
        accepted = next((i for i, (guess, true) in enumerate(pairs) if guess != true), count)
        rounds.append((accepted, seconds))
        known += accepted + 1
    return rounds


def _steps(model: TokenModel) -> Callable[[int], object]:
    """Return a function that runs so many rows through the target behind a fixed past."""
    cache = SequenceCache(KVPool.for_tokens(PAST_TOKENS + 1 + max(ROUNDS)))
    model.forward([Rows([5] * PAST_TOKENS, cache)])
    cache.commit(PAST_TOKENS)
    return lambda rows: model.forward([Rows([7] * rows, cache, rows)]).argmax(-1).tolist()


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _load(folder: str) -> FlatModel:
    return FlatModel.load(folder, device="cpu", dtype=torch.float32)


def _rounded(acceptance: Acceptance) -> tuple[float, ...]:
    return tuple(round(share, 4) for share in acceptance.fractions)
