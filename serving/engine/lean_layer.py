"""The layers of a Llama-like decoder as products and norms, whoever holds the weights.

Two ways to have them: the model's own linears, packed and adapted as they are (a target), or fused
copies with the norms' weights folded in (a draft, which is small and takes no adapters).

Shape letters: T rows, E hidden size, H query heads, G key-value heads, D head size, I input width,
O output width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from serving.engine.adapters import AdaptedLinear
from serving.engine.shared_product import PartLinear


class Product(Protocol):
    """The product of rows with one weight, or with several side by side."""

    def __call__(self, rows_TI: Tensor) -> Tensor:
        """Return a new tensor. Shape: (T, O)."""

    def added(self, hidden_TO: Tensor, rows_TI: Tensor) -> Tensor:
        """Return the product added to `hidden_TO`. Shape: (T, O)."""


@dataclass(frozen=True, slots=True)
class LeanLayer:
    """One decoder layer; norms without a weight have it in the product behind them."""

    input_norm: Tensor | None
    query_key_value: Product
    head_norm: Tensor | None
    """Weights of the norms over each query's and key's own numbers. Shape: (H + G, D)."""
    output: Product
    feed_forward_norm: Tensor | None
    gate_up: Product
    down: Product


class ModuleProduct:
    """Linears of the model that take the same rows, with the adapters that stand on them."""

    def __init__(self, linears: Sequence[nn.Module]) -> None:
        """Take the modules as they are now; replacing one later needs a new product."""
        bases = [part.base if isinstance(part, AdaptedLinear) else part for part in linears]
        self._multiply = _joined(bases)
        self._adapted: list[tuple[AdaptedLinear, slice]] = []
        start = 0
        for part, base in zip(linears, bases, strict=True):
            stop = start + int(base.out_features)  # type: ignore[arg-type]
            if isinstance(part, AdaptedLinear):
                self._adapted.append((part, slice(start, stop)))
            start = stop

    def __call__(self, rows_TI: Tensor) -> Tensor:
        """Return the linears' outputs side by side. Shape: (T, O)."""
        output_TO = self._multiply(rows_TI)
        for linear, columns in self._adapted:
            linear.add_updates(rows_TI, output_TO, columns)
        return output_TO

    def added(self, hidden_TO: Tensor, rows_TI: Tensor) -> Tensor:
        """Return the product added to `hidden_TO`. Shape: (T, O)."""
        return hidden_TO + self(rows_TI)


def _joined(bases: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    first = bases[0]
    if len(bases) == 1:
        return first
    if isinstance(first, PartLinear) and all(
        isinstance(base, PartLinear) and base.kernel is first.kernel for base in bases
    ):
        return first.kernel
    return lambda rows_TI: torch.cat([base(rows_TI) for base in bases], dim=-1)


class FusedProduct:
    """A copy of several linears as one, with the weight of the norm before them multiplied in."""

    def __init__(self, linears: Sequence[nn.Linear], norm_I: Tensor | None = None) -> None:
        """Copy the weights; `norm_I` is the norm's, None where there is none."""
        weight_OI = torch.cat([part.weight for part in linears])
        weight_OI = (weight_OI if norm_I is None else weight_OI * norm_I).detach()
        # On a processor a few rows are multiplied fastest by this order.
        self._weight_IO = weight_OI.T.contiguous()
        has_bias = linears[0].bias is not None
        self._bias_O = torch.cat([part.bias for part in linears]).detach() if has_bias else None

    def __call__(self, rows_TI: Tensor) -> Tensor:
        """Return the linears' outputs side by side. Shape: (T, O)."""
        if self._bias_O is None:
            return rows_TI @ self._weight_IO
        return torch.addmm(self._bias_O, rows_TI, self._weight_IO)

    def added(self, hidden_TO: Tensor, rows_TI: Tensor) -> Tensor:
        """Return the product added to `hidden_TO`. Shape: (T, O)."""
        if self._bias_O is not None:
            hidden_TO = hidden_TO + self._bias_O
        return torch.addmm(hidden_TO, rows_TI, self._weight_IO)


def module_layer(layer: Any) -> LeanLayer:
    """Return a layer of transformers' that computes with its own modules."""
    attention, feed_forward = layer.self_attn, layer.mlp
    return LeanLayer(
        input_norm=layer.input_layernorm.weight.detach(),
        query_key_value=ModuleProduct([attention.q_proj, attention.k_proj, attention.v_proj]),
        head_norm=_head_norm(attention),
        output=ModuleProduct([attention.o_proj]),
        feed_forward_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=ModuleProduct([feed_forward.gate_proj, feed_forward.up_proj]),
        down=ModuleProduct([feed_forward.down_proj]),
    )


def fused_layer(layer: Any) -> LeanLayer:
    """Return a layer of transformers' that computes with fused copies of its dense weights."""
    attention, feed_forward = layer.self_attn, layer.mlp
    return LeanLayer(
        input_norm=None,
        query_key_value=FusedProduct(
            [attention.q_proj, attention.k_proj, attention.v_proj], layer.input_layernorm.weight
        ),
        head_norm=_head_norm(attention),
        output=FusedProduct([attention.o_proj]),
        feed_forward_norm=None,
        gate_up=FusedProduct(
            [feed_forward.gate_proj, feed_forward.up_proj], layer.post_attention_layernorm.weight
        ),
        down=FusedProduct([feed_forward.down_proj]),
    )


def _head_norm(attention: Any) -> Tensor | None:
    if not hasattr(attention, "q_norm"):
        return None
    config = attention.config
    query_HD = attention.q_norm.weight.expand(config.num_attention_heads, -1)
    key_GD = attention.k_norm.weight.expand(config.num_key_value_heads, -1)
    return torch.cat((query_HD, key_GD)).detach()
