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
from serving.engine.kv_cache import SequenceCache
from serving.engine.lean_head import LeanHead
from serving.engine.lean_llama import leanest
from serving.engine.model import FlatModel, TokenModel
from serving.engine.rows import Rows
from serving.tiny.export import load_model
from serving.tiny.head_card import DraftComparison, DraftFigures

logger = logging.getLogger(__name__)

PREFIX_TOKENS = 64
"""Held-out tokens the target continues."""
NEW_TOKENS = 128
"""Tokens of one continuation."""
PAST_TOKENS = 128
"""Verified rows behind which rounds are timed."""
ROUNDS = (1, 2, 3, 4, 5)
"""Drafted tokens of the rounds that are timed."""
REPEATS = 60
"""How often each round is timed; the median counts."""

Round = Callable[[int], object]
"""Drafts so many tokens."""


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
    written = continuations(target, texts)
    starts = torch.cat((torch.zeros(PREFIX_TOKENS - 1), torch.ones(NEW_TOKENS + 1)))
    on_text = _both(head, small, target, read, mask=None)
    on_written = _both(head, small, target, written, mask=starts)
    target_seconds, rounds = time_drafts(head, target, small_folder)
    figures = [
        DraftFigures(
            text_fractions=_rounded(on_text[index]),
            continuation_fractions=_rounded(on_written[index]),
            seconds_by_draft_tokens=rounds[index],
        )
        for index in range(2)
    ]
    capability = torch.backends.cpu.get_cpu_capability()
    return DraftComparison(
        num_text_tokens=sum(len(ids) - 1 for ids in texts),
        num_continuation_tokens=NEW_TOKENS * len(written),
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
def continuations(target: FrozenTarget, texts: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return beginnings of texts, each with the target's greedy text behind it and features."""
    prefixes = [ids[:PREFIX_TOKENS] for ids in texts if len(ids) >= PREFIX_TOKENS]
    ids_Bn = torch.stack(prefixes)
    cache = None
    step_Bn = ids_Bn
    for _ in range(NEW_TOKENS):
        output = target.model(input_ids=step_Bn, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        step_Bn = output.logits[:, -1:].argmax(-1)
        ids_Bn = torch.cat((ids_Bn, step_Bn), dim=1)
    return [(ids, target.features(ids)) for ids in ids_Bn]


def time_drafts(
    head: DovetailHead,
    target: FrozenTarget,
    small_folder: Path,
    *,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, tuple[dict[int, float], dict[int, float]]]:
    """Return seconds of a target step at one row, and of rounds of head and small model by length.

    Processor time of one thread, so that a busy machine changes little. Every kind of round runs in
    each repetition, each behind a target step, as in decoding.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = str(target.model.config.name_or_path)
    try:
        step = _model_rounds(_load(folder))
        drafts = (_head_rounds(head, target), _model_rounds(leanest(_load(str(small_folder)))))
        target_seconds: list[float] = []
        seconds: tuple[dict[int, list[float]], dict[int, list[float]]] = ({}, {})
        for _ in range(REPEATS):
            for count in ROUNDS:
                for draft, times in zip(drafts, seconds, strict=True):
                    start = clock()
                    step(1)
                    middle = clock()
                    draft(count)
                    target_seconds.append(middle - start)
                    times.setdefault(count, []).append(clock() - middle)
    finally:
        torch.set_num_threads(threads)
    medians = [{k: round(statistics.median(v), 6) for k, v in times.items()} for times in seconds]
    return round(statistics.median(target_seconds), 6), (medians[0], medians[1])


def _model_rounds(model: TokenModel) -> Round:
    """Return rounds of a model: two rows first where it drafts more than one token, then one each."""
    cache = SequenceCache(PAST_TOKENS + 2 + max(ROUNDS))
    model.forward([Rows([5] * PAST_TOKENS, cache)])
    cache.commit(PAST_TOKENS)

    def draft(count: int) -> None:
        tokens = [5, 7] if count > 1 else [7]
        for _ in range(count):
            model.forward([Rows(tokens, cache)]).argmax(-1).tolist()
            cache.commit(len(tokens))
            tokens = [7]
        cache.roll_back(PAST_TOKENS)

    return draft


def _head_rounds(head: DovetailHead, target: FrozenTarget) -> Round:
    """Return rounds of a head: three verified rows first, then one row each."""
    lean = LeanHead(head, embedding=target.embedding, output_head=target.output_head)
    cache = lean.new_cache(PAST_TOKENS + 3 + max(ROUNDS))
    true_NE = torch.randn(PAST_TOKENS, head.config.feature_size)
    lean.prefill([HeadRows([5] * PAST_TOKENS, true_NE, cache)])

    def draft(count: int) -> None:
        output = lean.prefill([HeadRows([5, 6, 7], true_NE[:3], cache)])
        for depth in range(1, count):
            (token,) = output.log_probs_TV.argmax(-1).tolist()
            output = lean.step([HeadRows([token], output.features_TE, cache, depths=(depth,))])
        output.log_probs_TV.argmax(-1).tolist()
        cache.roll_back(PAST_TOKENS)

    return draft


def _load(folder: str) -> FlatModel:
    return FlatModel.load(folder, device="cpu", dtype=torch.float32)


def _rounded(acceptance: Acceptance) -> tuple[float, ...]:
    return tuple(round(share, 4) for share in acceptance.fractions)
