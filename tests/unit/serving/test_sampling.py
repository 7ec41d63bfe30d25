import pytest
import torch

from serving.engine.sampling import Purpose, SamplingParams, distribution, uniform

LOGITS = torch.tensor([[2.0, 1.0, 0.0]])


def params(**fields: float) -> SamplingParams:
    return SamplingParams(max_tokens=1, **fields)


def test_temperature_divides_the_logits():
    """At temperature 0.3, logits (2, 1, 0) give (.964, .034, .001)."""
    probs = distribution(LOGITS, params(temperature=0.3))
    assert torch.allclose(probs, torch.tensor([[0.9643, 0.0344, 0.0012]]), atol=1e-3)


def test_top_k_keeps_the_likeliest_and_renormalises():
    """Top-k of two leaves the odds of the two likeliest unchanged."""
    probs = distribution(LOGITS, params(top_k=2))
    assert probs[0, 2] == 0
    assert float(probs.sum()) == pytest.approx(1)
    assert float(probs[0, 0] / probs[0, 1]) == pytest.approx(2.71828, rel=1e-4)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-46, 1), (0.1, 1), (0.66, 1), (0.67, 2), (0.92, 3), (1.0, 3)]
)
def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass(top_p, kept):
    """Softmax of (2, 1, 0) is (.665, .245, .090); the likeliest token always stays."""
    assert int((distribution(LOGITS, params(top_p=top_p)) > 0).sum()) == kept


def test_noise_belongs_to_seed_position_and_purpose():
    """The same triple repeats; another seed, position or purpose draws anew."""
    draws = {
        uniform(seed, position, purpose)
        for seed in (0, 1, 2**63)
        for position in range(20)
        for purpose in Purpose
    }
    assert len(draws) == 3 * 20 * 3
    assert uniform(5, 7, Purpose.EMIT) == uniform(5, 7, Purpose.EMIT)


def test_noise_is_uniform():
    """The mean and the spread of many draws are those of the uniform distribution."""
    draws = torch.tensor([uniform(11, position, Purpose.ACCEPT) for position in range(4000)])
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(draws.var()) == pytest.approx(1 / 12, abs=0.005)
