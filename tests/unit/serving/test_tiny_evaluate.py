import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from serving.tiny.evaluate import Score, predict, score
from serving.tiny.recipe import ModelShape

CONTEXT_TOKENS = 8


def nano_model(seed: int) -> LlamaForCausalLM:
    """Return a random one-layer model over 40 tokens."""
    torch.manual_seed(seed)
    shape = ModelShape(
        num_layers=1,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_key_value_heads=2,
        head_size=8,
    )
    return LlamaForCausalLM(shape.llama(vocabulary_size=40, context_tokens=CONTEXT_TOKENS)).eval()


@pytest.mark.parametrize("num_tokens", [1, 7, 8, 9, 16, 45, 8 * 9 + 3])
def test_predictions_equal_a_window_by_window_loop(num_tokens: int) -> None:
    """Batching windows changes nothing: each token is predicted once, from its own window."""
    model = nano_model(0)
    ids = np.random.default_rng(num_tokens).integers(40, size=num_tokens + 1)
    result = predict(model, ids, context_tokens=CONTEXT_TOKENS)
    nats, greedy = [], []
    for start in range(0, num_tokens, CONTEXT_TOKENS):
        window = torch.from_numpy(ids[start : start + CONTEXT_TOKENS + 1])
        with torch.inference_mode():
            logits = model(input_ids=window[None, :-1]).logits[0]
        nats.append(functional.cross_entropy(logits, window[1:], reduction="none").numpy())
        greedy.append(logits.argmax(-1).numpy())
    np.testing.assert_allclose(result.nats, np.concatenate(nats), rtol=1e-4)
    np.testing.assert_array_equal(result.greedy, np.concatenate(greedy))


def test_a_model_agrees_with_itself() -> None:
    """Target and draft being one model, agreement is whole and the losses are equal."""
    model = nano_model(0)
    ids = np.random.default_rng(3).integers(40, size=30)
    result = score(model, model, ids, context_tokens=CONTEXT_TOKENS)
    assert result.num_tokens == 29
    assert result.agreement_fraction == 1
    assert result.target_nats_per_token == result.draft_nats_per_token


def test_scores_add_up_by_tokens() -> None:
    """Losses and agreement of several documents are weighted by their tokens."""
    total = sum([Score(1, 2.0, 3.0, 1), Score(3, 2.0, 5.0, 0)], Score())
    assert total.target_nats_per_token == pytest.approx(1.0)
    assert total.draft_nats_per_token == pytest.approx(2.0)
    assert total.agreement_fraction == pytest.approx(0.25)


def test_a_document_without_tokens_is_refused() -> None:
    """The end-of-text id alone leaves nothing to predict."""
    with pytest.raises(ValueError, match="nothing to predict"):
        predict(nano_model(0), np.array([0]), context_tokens=CONTEXT_TOKENS)
