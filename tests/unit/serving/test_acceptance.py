import math

import pytest
import torch

from serving.engine.acceptance import draw, verify_greedy, verify_sampled
from serving.engine.draft_tree import DraftTree
from serving.engine.sampling import Purpose


def accept_greedy(target_ids, draft_ids) -> tuple[int, int]:
    """Verify a chain; return how many of its tokens stay, and the token behind them."""
    verdict = verify_greedy(DraftTree.chain(draft_ids), target_ids)
    return len(verdict.nodes), verdict.token


def accept_sampled(target_probs, draft_probs, draft_ids, *, accept_uniforms, emit_uniforms):
    """Verify a drawn chain with the given draws; return as `accept_greedy`."""

    def noise(offset: int, purpose: Purpose, index: int = 0) -> float:
        return (accept_uniforms if purpose is Purpose.ACCEPT else emit_uniforms)[offset]

    tree = DraftTree.chain(draft_ids, list(draft_probs))
    verdict = verify_sampled(tree, target_probs, noise)
    return len(verdict.nodes), verdict.token


@pytest.mark.parametrize(
    ("target", "draft", "expected"),
    [
        ([7], [], (0, 7)),
        ([1, 2, 3], [1, 2], (2, 3)),
        ([1, 9, 3], [1, 2], (1, 9)),
        ([9, 2, 3], [1, 2], (0, 9)),
    ],
)
def test_greedy_keeps_the_common_prefix_and_adds_the_targets_own_token(target, draft, expected):
    """Greedy acceptance emits what plain greedy decoding would, whatever was drafted."""
    assert accept_greedy(target, draft) == expected


def test_greedy_rejects_a_token_that_is_likely_but_not_the_likeliest():
    """Token 0 with target probability .40 against .60 is refused at temperature zero."""
    target_ids = torch.tensor([[0.40, 0.60], [0.5, 0.5]]).log().argmax(-1).tolist()
    assert accept_greedy(target_ids, [0]) == (0, 1)


def test_sampled_accepts_everything_when_draft_and_target_agree():
    """With q equal to p no draw rejects, and the bonus token comes from the last row."""
    probs = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0]])
    verdict = accept_sampled(
        probs, probs[:2], [0, 1], accept_uniforms=[0.999, 0.999], emit_uniforms=[0.1, 0.1, 0.1]
    )
    assert verdict == (2, 1)


def test_sampled_never_accepts_a_token_the_target_cannot_emit():
    """A drafted token of target probability zero is replaced, even at a uniform of zero."""
    verdict = accept_sampled(
        torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[1.0, 0.0]]),
        [0],
        accept_uniforms=[0.0],
        emit_uniforms=[0.5, 0.5],
    )
    assert verdict == (0, 1)


def test_sampled_survives_a_residual_of_no_mass():
    """Rounding that rejects where p equals q falls back to p instead of dividing by zero."""
    p = torch.tensor([[0.3, 0.7], [0.5, 0.5]])
    q = torch.tensor([[0.3000001, 0.6999999]])
    accepted, token = accept_sampled(
        p, q, [0], accept_uniforms=[0.99999999], emit_uniforms=[0.9, 0.9]
    )
    assert (accepted, token) == (0, 1)


def test_drafting_from_a_distribution_never_changes_what_one_step_emits():
    """Integrated over the draft and a fine grid of uniforms, the first token follows p exactly."""
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    q = torch.tensor([[0.1, 0.2, 0.7]])
    grid = [(i + 0.5) / 100 for i in range(100)]
    mass = torch.zeros(3)
    for drafted in range(3):
        for accept in grid:
            for emit in grid:
                accepted, token = accept_sampled(
                    p, q, [drafted], accept_uniforms=[accept], emit_uniforms=[emit, emit]
                )
                mass[drafted if accepted else token] += float(q[0, drafted]) / 10_000
    assert torch.allclose(mass, p[0], atol=0.01)


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 1), (0.49, 1), (0.51, 3), (1 - 2**-53, 3)])
def test_draw_never_returns_an_index_without_weight(uniform, expected):
    """Inversion skips zero weights at both ends and between."""
    assert draw(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), uniform) == expected


@pytest.mark.parametrize("weight", [2.0**-149, 0.1, 1 / 3, 1.0, 3.4e38])
def test_draw_of_the_largest_uniform_is_the_last_index_with_weight(weight):
    """From the smallest float32 to nearly the largest, the product stays below the whole sum."""
    assert draw(torch.tensor([weight, weight, 0.0]), 1 - 2**-53) == 1


@pytest.mark.parametrize("weights", [[1.0, math.nan], [0.0, 0.0]], ids=str)
def test_draw_from_no_distribution_is_refused(weights):
    """Weights that are no numbers, or all zero, select nothing rather than the last index."""
    with pytest.raises(AssertionError, match="finite and not all zero"):
        draw(torch.tensor(weights), 0.5)
