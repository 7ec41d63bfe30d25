"""What a head learns: pairs, noise, loss; and how its chains are judged."""

import math

import pytest
import torch

from serving.draft_training.acceptance import Acceptance, follow
from serving.draft_training.objective import (
    feature_loss,
    feature_noise,
    masked_mean,
    token_loss,
)
from serving.draft_training.recipe import HeadRecipe


def test_feature_loss_is_smooth_l1_by_hand():
    """Half the square below 1, the size less a half above; rows of mask 0 do not count."""
    predicted = torch.tensor([[[0.5, 3.0], [9.0, 9.0]]])
    true = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])
    loss = feature_loss(predicted, true, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx((0.5 * 0.25 + 2.5) / 2)


def test_token_loss_is_cross_entropy_by_hand():
    """Against a law of (3/4, 1/4), a head that finds both alike pays log 2."""
    true = torch.tensor([[[0.75, 0.25]]])
    loss = token_loss(torch.zeros(1, 1, 2), true, torch.ones(1, 1))
    assert loss.item() == pytest.approx(math.log(2))
    own = token_loss(torch.log(true), true, torch.ones(1, 1)).item()
    assert own == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_a_mask_of_zeros_gives_no_loss():
    """A batch with nothing to learn does not divide by zero."""
    assert masked_mean(torch.ones(2, 3), torch.zeros(2, 3)).item() == 0


@pytest.mark.parametrize(("length", "half"), [(512, 0.1), (1024, 0.05), (128, 0.4)])
def test_noise_is_uniform_and_narrower_on_longer_sequences(length, half):
    """(U - 0.5) x 0.2 x 512 / length: within its bounds, near to them, and centred."""
    generator = torch.Generator().manual_seed(1)
    noise = feature_noise((2, length, 8), width=0.2, generator=generator)
    assert half * 0.99 < noise.abs().max() <= half
    assert noise.mean().abs() < half / 20
    assert noise.std().item() == pytest.approx(half / math.sqrt(3), rel=0.05)


def test_rate_rises_then_falls_to_zero():
    """Linear warm-up, full rate, linear decay over the last share of the steps."""
    recipe = HeadRecipe(num_steps=100, warmup_steps=10, decay_fraction=0.4)
    fractions = [recipe.rate_fraction(step) for step in (0, 4, 9, 60, 80, 100)]
    assert fractions == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.0])
    assert recipe.plain_steps == 60


def test_chains_grow_deep_at_the_end():
    """The last share of the steps unrolls chains; by default every step does."""
    recipe = HeadRecipe(num_steps=100, num_depths=3, deep_fraction=0.25)
    assert [recipe.depths_at(step) for step in (0, 74, 75, 99)] == [1, 1, 3, 3]
    assert HeadRecipe(num_depths=3).depths_at(0) == 3


def test_chains_are_followed_while_they_are_the_text():
    """Five tokens by hand: a chain goes on only behind guesses that are the text's own tokens."""
    ids = torch.tensor([1, 2, 3, 4, 5])
    true_n = torch.tensor([2, 3, 9, 5, 6])
    first = torch.tensor([2, 3, 9, 7, 6])  # the third is the target's, yet not the text's
    second = torch.tensor([3, 8, 5, 6])
    result = follow([first, second], true_n=true_n, ids=ids)
    assert result.num_reached[:2] == (5, 2)
    assert result.num_accepted[:2] == (4, 1)
    assert result.fractions[:3] == (0.8, 0.5, 0.0)
    doubled = result + result
    assert doubled.num_reached[:2] == (10, 4)


def test_chains_start_where_they_are_asked_to():
    """A mask picks the tokens behind which chains count."""
    ids = torch.tensor([1, 2, 3])
    starts = torch.tensor([False, True, True])
    result = follow([ids, ids[1:]], true_n=ids, ids=ids, starts=starts)
    assert result == Acceptance((2, 0, 0, 0, 0), (2, 0, 0, 0, 0))
