"""Packed linears compute what the dense layer computes, to the rounding of their weights."""

import pytest
import torch
from torch import nn

from serving.engine.adapters import LowRank
from serving.engine.invariance import is_row_invariant, rows_to_test, settle_padding
from serving.engine.kernels import (
    Int4Linear,
    Int8DigitsLinear,
    Int8Linear,
    kernel_rows,
    pack,
    quantize_int4,
    quantize_int8,
)
from serving.engine.packing import packed_linears, replace_linears

SHAPES = [(192, 192), (512, 192), (192, 1024), (2048, 256)]
KINDS = ["float32", "bfloat16", "int8", "int4"]


def dense_linear(width: int, height: int, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(width + height)
    return nn.Linear(width, height, bias=bias)


def random_rows(width: int):
    torch.manual_seed(3)
    rows = torch.randn(600, width)
    return lambda count: rows[:count]


def row_rounding(linear: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Return how far an entry of each row may move when the kernel rounds it."""
    if isinstance(linear, Int8DigitsLinear):
        return rows.abs().amax(-1, keepdim=True).expand_as(rows) / 32639
    return rows.abs() * 2**-8


@torch.inference_mode()
@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_products_stay_within_the_rounding_of_weights_and_rows(kind, width, height):
    """|error| <= sum |x| |dw| + |dx| |w| + the result's own rounding, entry by entry.

    dw: 0; 2^-8 of the entry; half the channel's largest / 127; 0.6 of the group's range / 15.
    """
    dense = dense_linear(width, height)
    rows = random_rows(width)(9)
    packed = pack(dense, kind)
    weight = dense.weight
    if kind == "float32":
        moved_weight, moved_rows = weight * 0, rows * 0
    else:
        moved_rows = row_rounding(packed, rows)
        if kind == "bfloat16":
            moved_weight = weight.abs() * 2**-8
        elif kind == "int8":
            moved_weight = (weight.abs().amax(-1, keepdim=True) / 254).expand_as(weight)
        else:
            low, high = weight.unflatten(1, (-1, 64)).aminmax(dim=-1)
            moved_weight = ((high - low) / 15 * 0.6).repeat_interleave(64, dim=1)
    bound = (rows.abs() + moved_rows) @ moved_weight.T + moved_rows @ weight.abs().T
    result = dense(rows)
    bound += result.abs() * (1e-5 if kind in ("float32", "int8") else 2**-7) + 1e-4
    assert bool(((packed(rows) - result).abs() <= bound).all())


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_equals_the_row_among_others(kind, width, height, threads):
    """Bit for bit at every count to 33 and around the multiples kernels block by."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        packed = pack(dense_linear(width, height), kind)
        assert settle_padding(packed, rows_to_test(130))
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rank", [1, 3, 8, 64])
def test_low_rank_products_of_a_row_do_not_depend_on_others(rank, threads):
    """An adapter's update has the same bits alone and in a batch, at every rank."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for width, height in SHAPES:
            update = LowRank(torch.randn(rank, width), torch.randn(height, rank), 0.5)
            assert is_row_invariant(update.apply, random_rows(width), rows_to_test(130))
    finally:
        torch.set_num_threads(before)


def test_few_counts_of_rows_have_code_of_their_own():
    """Each count is one of them or padded to the next; small ones are never padded."""
    counts = {kernel_rows(num_rows) for num_rows in range(1, 2049)}
    assert set(range(1, 17)) <= counts
    assert len(counts) <= 42
    assert max(counts) == 2048
    for num_rows in range(1, 2049):
        assert kernel_rows(num_rows) == min(count for count in counts if count >= num_rows)
        assert num_rows <= 64 or kernel_rows(num_rows) <= 1.25 * num_rows


def test_the_test_finds_a_function_that_depends_on_other_rows():
    """Scaling by the largest entry of the batch, as dynamic quantisation does, is caught."""

    def scaled_by_batch(rows: torch.Tensor) -> torch.Tensor:
        return torch.round(rows * 127 / rows.abs().max()) * rows.abs().max()

    assert not is_row_invariant(scaled_by_batch, random_rows(16), [2, 3, 64])
    assert is_row_invariant(torch.neg, random_rows(16), [2, 3, 64])


@torch.inference_mode()
@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(192, 40, "int8"), (80, 64, "int8"), (96, 64, "int4-g32"), (128, 64, "int4-g64")],
)
def test_a_shape_the_int4_kernel_refuses_gets_a_kernel_that_takes_it(width, height, expected):
    """Odd widths fall back to finer weights by name, and compute."""
    packed = pack(dense_linear(width, height), "int4")
    assert packed.kind.startswith(expected)
    assert packed(torch.randn(2, 3, width)).shape == (2, 3, height)


@torch.inference_mode()
def test_int8_without_byte_products_is_nearly_the_same():
    """The kernel of older processors differs by the rounding of rows to bfloat16."""
    dense = dense_linear(192, 256)
    rows = random_rows(192)(5)
    difference = Int8Linear(dense)(rows) - Int8DigitsLinear(dense)(rows)
    assert float(difference.abs().max()) <= float((rows.abs() @ dense.weight.abs().T).max()) / 64


@torch.inference_mode()
def test_biases_are_added():
    """A layer with a bias gives the dense layer's result."""
    dense = dense_linear(64, 32, bias=True)
    rows = random_rows(64)(3)
    assert torch.allclose(pack(dense, "float32")(rows), dense(rows), atol=1e-5)


def test_rows_of_zeros_give_zeros_and_rows_that_are_not_finite_stay_so():
    """Row scales never divide by zero and hide no fault."""
    packed = pack(dense_linear(64, 32), "int8")
    assert not packed(torch.zeros(2, 64)).any()
    for wrong in (torch.nan, torch.inf):
        rows = torch.randn(2, 64)
        rows[1, 5] = wrong
        result = packed(rows)
        assert bool(result[0].isfinite().all())
        assert not bool(result[1].isfinite().any())


def test_whole_numbers_are_in_range():
    """Weights of any sign, constant groups included, round to numbers the kernels take."""
    weight = torch.cat((torch.randn(4, 64), torch.full((2, 64), 0.3), torch.zeros(1, 64)))
    numbers, _ = quantize_int8(weight)
    assert int(numbers.abs().max()) <= 127
    numbers, scales, middles = quantize_int4(weight, 32)
    assert 0 <= int(numbers.min()) <= int(numbers.max()) <= 15
    whole = (numbers.unflatten(1, (-1, 32)) - 8) * scales.float()[..., None]
    back = (whole + middles.float()[..., None]).flatten(1)
    assert torch.allclose(back[4:], weight[4:], atol=0.3 * 2**-8)


def test_replacing_keeps_a_shared_embedding_and_lets_dense_weights_go():
    """The head's dense weight stays only in the embedding; every linear becomes a packed one."""
    model = nn.ModuleDict({"embedding": nn.Embedding(64, 32), "head": nn.Linear(32, 64, False)})
    model["head"].weight = model["embedding"].weight
    replace_linears(model, "int4")
    assert list(packed_linears(model)) == ["head"]
    assert isinstance(model["head"], Int4Linear)
    assert [name for name, _ in model.named_parameters()] == ["embedding.weight"]
