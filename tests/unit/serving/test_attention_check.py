"""The start-up test of attention: it holds here, and finds what does not."""

import pytest
from transformers import LlamaConfig

from serving.engine import attention_check
from serving.engine.attention_check import attention_is_row_invariant


@pytest.mark.parametrize(
    "shape",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
        {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32},
        {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 128, "sliding_window": 70},
    ],
)
def test_attention_is_row_invariant_here(shape):
    """Alone, in a chunk and in a tree a row has the same bits."""
    assert attention_is_row_invariant(LlamaConfig(**shape))


def test_attention_that_depends_on_other_rows_is_found(monkeypatch):
    """A last bit that follows the number of rows breaks the guarantee."""
    attend = attention_check.attend

    def unsteady(layer, query, key, value, **others):
        return attend(layer, query, key, value, **others) * (1 + query.shape[2] * 1e-7)

    monkeypatch.setattr(attention_check, "attend", unsteady)
    assert not attention_is_row_invariant(LlamaConfig(num_attention_heads=2, hidden_size=64))
