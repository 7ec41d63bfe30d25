"""Layers that are given one tensor are one product, and compute what each would alone."""

import pytest
import torch
from torch import nn

from serving.engine.invariance import check_model
from serving.engine.kernels import Quantization, pack
from serving.engine.packing import packed_linears, replace_linears
from serving.engine.shared_product import PartLinear, SharedProduct, by_product, pack_group


def denses(bias: bool = False) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(64, width, bias=bias) for width in (64, 32, 32)]


@torch.inference_mode()
@pytest.mark.parametrize("quantization", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("bias", [False, True])
def test_each_layer_gives_what_it_gives_alone(quantization: Quantization, bias: bool):
    """Up to the order of sums: the shared weight may be blocked otherwise."""
    hidden = torch.randn(1, 5, 64)
    parts = pack_group(denses(bias), lambda dense: pack(dense, quantization))
    for part, dense in zip(parts, denses(bias), strict=True):
        assert torch.allclose(part(hidden), pack(dense, quantization)(hidden), atol=1e-5)
        assert (part.in_features, part.out_features) == (64, dense.out_features)


@torch.inference_mode()
def test_one_tensor_is_multiplied_once_and_let_go():
    """In any order of the layers; afterwards nothing of input and output is held."""
    calls = []
    shared = SharedProduct(denses(), lambda dense: pack(dense, "float32"))
    shared.packed.register_forward_hook(lambda *_: calls.append(1))
    hidden = torch.randn(2, 64)
    for order in ((0, 1, 2), (2, 0, 1)):
        calls.clear()
        for number in order:
            shared.part(number, hidden)
        assert len(calls) == 1
        assert shared._hidden is None
        assert not shared._outputs


@torch.inference_mode()
def test_a_layer_asked_again_or_given_another_tensor_multiplies_anew():
    """A tensor that changed between forwards is never answered from memory."""
    first, *_ = pack_group(denses(), lambda dense: pack(dense, "float32"))
    hidden = torch.randn(2, 64)
    before = first(hidden).clone()
    assert torch.equal(first(hidden.clone()), before)
    hidden.zero_()
    assert not first(hidden).any()


def test_padding_is_the_products():
    """Rows are padded for all layers of a product alike."""
    parts = pack_group(denses(), lambda dense: pack(dense, "float32"))
    parts[0].fewest_rows = 4
    assert [part.fewest_rows for part in parts] == [4, 4, 4]
    assert sum(part.weight_bytes for part in parts) == 64 * 128 * 4


def test_the_start_up_test_runs_each_product_that_is_run():
    """A shared product is tested whole, and a layer alone of one part's shape is tested too."""
    model = nn.ModuleDict(
        {name: nn.Linear(64, 64, bias=False) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    )
    replace_linears(model, "float32")
    sizes = []
    for linear in {id(x.kernel): x.kernel for x in packed_linears(model).values()}.values():
        linear.register_forward_hook(
            lambda module, _inputs, _output: sizes.append(module.out_features)
        )
    assert check_model(model, most_rows=40).is_bit_exact
    assert set(sizes) == {64, 192}
    padding = {model[name].fewest_rows for name in ("q_proj", "k_proj", "v_proj")}
    assert len(padding) == 1


def test_only_siblings_alike_are_put_together():
    """Queries, keys and values of one layer; not with different biases, nor without a sibling."""

    def attention(*, key_bias: bool = False) -> nn.ModuleDict:
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        return nn.ModuleDict(
            {name: nn.Linear(8, 8, bias=key_bias and name == "k_proj") for name in names}
        )

    model = nn.ModuleDict(
        {"a": attention(), "b": attention(key_bias=True), "c": nn.Module(), "head": nn.Linear(8, 8)}
    )
    model["c"].gate_proj = nn.Linear(8, 8)
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    groups = by_product(model, names)
    assert [group for group in groups if len(group) > 1] == [["a.q_proj", "a.k_proj", "a.v_proj"]]
    assert sorted(name for group in groups for name in group) == sorted(names)
    replace_linears(model, "float32")
    assert sorted(packed_linears(model)) == sorted(names)
    assert isinstance(model["a"]["q_proj"], PartLinear)
    assert not isinstance(model["a"]["o_proj"], PartLinear)
