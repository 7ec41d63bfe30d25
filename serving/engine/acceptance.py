"""Which drafted tokens stay: pure rules that leave the target's output unchanged.

Shape letters: K drafted tokens, V vocabulary.

Source: Leviathan et al. 2023, algorithm 1, and Chen et al. 2023, for the sampled rule; their p is
`target_probs_V` here and their q is `draft_probs_V`.
"""

import torch
from torch import Tensor

_EPSILON = 1e-9


def accept_greedy(target_ids: list[int], draft_ids: list[int]) -> tuple[int, int]:
    """Accept drafted tokens while each equals the target's greedy choice.

    Args:
        target_ids: Greedy choice after the context and after each drafted token. Length: K + 1.
        draft_ids: Drafted tokens. Length: K.

    Returns:
        How many drafted tokens stay, and the token that follows them.
    """
    accepted = 0
    while accepted < len(draft_ids) and draft_ids[accepted] == target_ids[accepted]:
        accepted += 1
    return accepted, target_ids[accepted]


def accept_sampled(
    target_probs_KV: Tensor,
    draft_probs_KV: Tensor,
    draft_ids: list[int],
    *,
    accept_uniforms: list[float],
    emit_uniforms: list[float],
) -> tuple[int, int]:
    """Accept drafted tokens so that what is emitted follows the target's distribution exactly.

    Token `x` drawn from q stays with probability min(1, p(x) / q(x)). The first one that does not
    is replaced by a draw from the positive part of p - q; if all stay, one more is drawn from p.

    Args:
        target_probs_KV: p after every processor, one row more than drafted. Shape: (K + 1, V).
        draft_probs_KV: q, from which each drafted token was actually drawn. Shape: (K, V).
        draft_ids: Drafted tokens. Length: K.
        accept_uniforms: Independent draws from [0, 1), one for each drafted token.
        emit_uniforms: Independent draws from [0, 1), one for each possible emission. Length: K + 1.

    Returns:
        How many drafted tokens stay, and the token that follows them.
    """
    for index, token in enumerate(draft_ids):
        target_prob = float(target_probs_KV[index, token])
        draft_prob = float(draft_probs_KV[index, token])
        if accept_uniforms[index] * draft_prob < target_prob:
            continue
        residual_V = (target_probs_KV[index] - draft_probs_KV[index]).clamp_min(0.0)
        if float(residual_V.sum()) < _EPSILON:
            # p and q agree up to rounding: rejecting has probability zero in exact arithmetic.
            residual_V = target_probs_KV[index]
        return index, draw(residual_V, emit_uniforms[index])
    last = len(draft_ids)
    return last, draw(target_probs_KV[last], emit_uniforms[last])


def draw(weights_V: Tensor, uniform: float) -> int:
    """Return the index that `uniform` in [0, 1) selects from unnormalised weights. Shape: (V,).

    Inversion of the cumulative sum in float64; an index of weight zero is never returned. The
    weights are finite, at least 0, in float32 or coarser, and not all 0: the sum then is a normal
    float64, and its product with the largest float64 below 1 rounds to less than the sum.
    """
    cumulative_V = weights_V.double().cumsum(0)
    index = int(torch.searchsorted(cumulative_V, uniform * cumulative_V[-1], right=True))
    assert index < len(weights_V), "weights are finite and not all zero"
    return index
