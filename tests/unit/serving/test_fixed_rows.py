import pytest
import torch
from torch import nn

from serving.engine.fixed_rows import BLOCK_ROWS, FixedRowsLinear
from serving.engine.invariance import is_row_invariant, rows_to_test


def dense(dtype: torch.dtype, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(96, 80, bias=bias, dtype=dtype)


@pytest.mark.parametrize("num_rows", [1, 5, BLOCK_ROWS, BLOCK_ROWS + 1, 200])
@pytest.mark.parametrize("bias", [False, True])
def test_blocks_compute_what_the_dense_layer_computes(num_rows, bias):
    """Any number of rows, with leading dimensions and a bias."""
    layer = dense(torch.float64, bias=bias)
    rows = torch.randn(1, num_rows, 96, dtype=torch.float64)
    assert torch.allclose(FixedRowsLinear(layer)(rows), layer(rows), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_row_has_the_same_bits_in_any_batch(dtype):
    """Products of one shape give a row the same result wherever it stands."""
    layer = FixedRowsLinear(dense(dtype))
    generator = torch.Generator().manual_seed(0)
    assert is_row_invariant(
        layer,
        lambda count: torch.randn(200, 96, generator=generator.manual_seed(0)).to(dtype)[:count],
        rows_to_test(200),
    )


def test_every_product_has_as_many_rows(monkeypatch):
    """The library sees one shape only."""
    seen = []
    linear = nn.functional.linear

    def recording(rows, weight):
        seen.append(len(rows))
        return linear(rows, weight)

    monkeypatch.setattr("serving.engine.fixed_rows.functional.linear", recording)
    layer = FixedRowsLinear(dense(torch.float32))
    for count in (1, 17, 130):
        layer(torch.randn(count, 96))
    assert set(seen) == {BLOCK_ROWS}
    assert len(seen) == 1 + 1 + 3
