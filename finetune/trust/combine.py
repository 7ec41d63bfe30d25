"""What the job's strategy averages under the job's trust: clipped, chosen, or one of our own.

Shape suffixes: K clients, N entries of the whole adapter.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finetune.trust import robust
from finetune.trust.clip import clip
from finetune.trust.config import KrumConfig, TrustConfig
from finetune.trust.norms import product_squared_distances
from finetune.trust.privacy import noisy_mean
from finetune.updates import Tensors, Update

logger = logging.getLogger(__name__)

Rows = NDArray[np.float64]
Vector = NDArray[np.float64]


def combine(
    updates: Sequence[Update],
    *,
    start: Tensors,
    trust: TrustConfig,
    num_expected: int,
    scale: float = 1.0,
    generator: np.random.Generator | None = None,
    is_sent_N: NDArray[np.bool_] | None = None,
) -> list[Update]:
    """Return what a strategy shall average in place of `updates`.

    Clipping gives the same clients with shorter changes, a cap with fewer examples, Krum the chosen
    ones with one vote each.
    The median, the trimmed mean and privacy are means of their own: they give one update, which
    every strategy returns as it is.

    Args:
        updates: Accepted ones, at least one, all of the shapes of `start`.
        start: The adapter they were trained from.
        trust: What to do with them.
        num_expected: Clients that were asked.
        scale: LoRA's alpha / rank, for distances of products.
        generator: Source of privacy's noise; None seeds one from the system's entropy.
        is_sent_N: The entries that clients send, where all send the same; None is all.

    Raises:
        CohortError: If a robust rule gets too few updates.
    """
    if trust.privacy is not None:
        step_N, is_clipped_K = noisy_mean(
            changes(updates, start=start),
            clip_norm=trust.privacy.clip_norm,
            noise_multiplier=trust.privacy.noise_multiplier,
            num_expected=num_expected,
            generator=generator,
            is_sent_N=is_sent_N,
        )
        _log_clipped(updates, is_clipped_K, trust.privacy.clip_norm)
        return [_one("private mean", updates, moved(start, step_N))]
    updates = capped(updates, most_examples=trust.most_examples)
    if trust.clip_norm is not None:
        updates = _clipped(updates, start=start, most_norm=trust.clip_norm)
    match trust.robust:
        case None:
            return list(updates)
        case KrumConfig():
            return _chosen(updates, rule=trust.robust, start=start, scale=scale)
        case rule:
            step_N = RULES[rule.kind](
                changes(updates, start=start), num_attackers=rule.num_attackers
            )
            return [_one(rule.kind, updates, moved(start, step_N))]


RULES = {"median": robust.coordinate_median, "trimmed-mean": robust.trimmed_mean}
"""Rules over the entries of the changes, by their name in a job."""


def capped(updates: Sequence[Update], *, most_examples: int | None) -> list[Update]:
    """Return the updates with no larger claim of examples than `most_examples`, if that is given."""
    if most_examples is None:
        return list(updates)
    names = [update.client for update in updates if update.num_examples > most_examples]
    if names:
        logger.info(
            "examples capped clients=%s num=%d most_examples=%d", names, len(names), most_examples
        )
    return [
        replace(update, num_examples=min(update.num_examples, most_examples)) for update in updates
    ]


def changes(updates: Sequence[Update], *, start: Tensors) -> Rows:
    """Return each update's change as one row, tensors in the order of `start`. Shape: (K, N)."""
    rows = [flatten({name: update.tensors[name] for name in start}) for update in updates]
    return np.array(rows) - flatten(start)


def flatten(tensors: Mapping[str, NDArray[np.floating]]) -> Vector:
    """Return all entries as one vector, tensors in their order."""
    return np.concatenate([tensor.ravel() for tensor in tensors.values()], dtype=np.float64)


def moved(start: Tensors, step_N: Vector) -> dict[str, NDArray[np.float32]]:
    """Return `start + step`, in the types of `start`."""
    ends = np.cumsum([tensor.size for tensor in start.values()])[:-1]
    return {
        name: (tensor + part_N.reshape(tensor.shape)).astype(tensor.dtype)
        for (name, tensor), part_N in zip(start.items(), np.split(step_N, ends), strict=True)
    }


def _clipped(updates: Sequence[Update], *, start: Tensors, most_norm: float) -> list[Update]:
    clipped_KN, is_clipped_K = clip(changes(updates, start=start), most_norm=most_norm)
    _log_clipped(updates, is_clipped_K, most_norm)
    return [
        replace(update, tensors=moved(start, row_N)) if is_clipped else update
        for update, row_N, is_clipped in zip(updates, clipped_KN, is_clipped_K, strict=True)
    ]


def _chosen(
    updates: Sequence[Update], *, rule: KrumConfig, start: Tensors, scale: float
) -> list[Update]:
    if rule.distance == "products":
        distances = product_squared_distances([update.tensors for update in updates], scale=scale)
    else:
        distances = robust.squared_distances(changes(updates, start=start))
    kept = robust.multi_krum(distances, num_attackers=rule.num_attackers, num_kept=rule.num_kept)
    chosen = [replace(updates[row], num_examples=1) for row in kept]
    names = [update.client for update in chosen]
    logger.info("updates chosen clients=%s num=%d of=%d", names, len(names), len(updates))
    return chosen


def _one(name: str, updates: Sequence[Update], tensors: Tensors) -> Update:
    """Return an update of the server's own making."""
    loss = float(np.mean([update.loss for update in updates]))
    return Update(f"{name} of {len(updates)}", tensors, num_examples=1, loss=loss, sent_bytes=0)


def _log_clipped(
    updates: Sequence[Update], is_clipped_K: NDArray[np.bool_], most_norm: float
) -> None:
    names = [update.client for update, hit in zip(updates, is_clipped_K, strict=True) if hit]
    if names:
        logger.info("updates clipped clients=%s num=%d norm=%g", names, len(names), most_norm)
