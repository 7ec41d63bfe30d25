"""Packed linears that take the same rows, as one product: queries, keys and values; gate and up.

A step of few rows through a small or quantised layer costs the call more than the weights: one
call for three layers leaves two out. The layers stay modules of their own, so that the model runs
as it is and adapters wrap each of them; the first that is given a tensor multiplies for all.

Shape letters: M rows, O output width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from serving.engine.kernels import PackedLinear

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that transformers' decoders give the same tensor."""


class SharedProduct:
    """The product of several layers' weights, computed once for all that are given one tensor."""

    def __init__(
        self, denses: Sequence[nn.Linear], pack: Callable[[nn.Linear], PackedLinear]
    ) -> None:
        """Pack the weights one below the other, all or none with a bias."""
        widths = [dense.out_features for dense in denses]
        has_bias = denses[0].bias is not None
        joined = nn.Linear(denses[0].in_features, sum(widths), has_bias, device="meta")
        joined.weight = nn.Parameter(torch.cat([d.weight.detach() for d in denses]), False)
        if has_bias:
            joined.bias = nn.Parameter(torch.cat([d.bias.detach() for d in denses]), False)
        self.packed = pack(joined)
        self._hidden: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._waiting: set[int] = set()
        self._widths = widths

    def part(self, number: int, hidden: Tensor) -> Tensor:
        """Return that layer's output. Shape: (..., I) to (..., O).

        The same tensor object means the same rows: no decoder changes it between its layers. Input
        and output are let go when every layer has had its part.
        """
        if hidden is not self._hidden or number not in self._waiting:
            self._outputs = self.packed(hidden).split(self._widths, dim=-1)
            self._hidden, self._waiting = hidden, set(range(len(self._widths)))
        output = self._outputs[number]
        self._waiting.remove(number)
        if not self._waiting:
            self._hidden, self._outputs = None, ()
        return output


class PartLinear(PackedLinear):
    """One layer of a shared product."""

    def __init__(self, dense: nn.Linear, shared: SharedProduct, number: int) -> None:
        """Stand for `dense`, the layer of that number."""
        self._shared = shared
        super().__init__(dense)
        self._number = number
        self.kind = shared.packed.kind

    @property
    def kernel(self) -> PackedLinear:
        """The shared product."""
        return self._shared.packed

    @property
    def fewest_rows(self) -> int:
        """Rows to which the shared product pads."""
        return self._shared.packed.fewest_rows

    @fewest_rows.setter
    def fewest_rows(self, rows: int) -> None:
        self._shared.packed.fewest_rows = rows

    @property
    def weight_bytes(self) -> int:
        """This layer's share of the memory one product reads."""
        return (
            self._shared.packed.weight_bytes * self.out_features // self._shared.packed.out_features
        )

    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return this layer's product, with the bias if it has one. Shape: (M, O)."""
        return self._shared.part(self._number, rows_MI)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the product, computed by whichever layer of the group came first."""
        return self._shared.part(self._number, hidden)


def pack_group(
    denses: Sequence[nn.Linear], pack: Callable[[nn.Linear], PackedLinear]
) -> Sequence[PackedLinear]:
    """Return packed layers of a group that `by_product` made."""
    if len(denses) == 1:
        return [pack(denses[0])]
    shared = SharedProduct(denses, pack)
    return [PartLinear(dense, shared, number) for number, dense in enumerate(denses)]


def by_product(model: nn.Module, names: Sequence[str]) -> list[list[str]]:
    """Put names of layers together that can be one product, and every other name alone."""
    groups: list[list[str]] = []
    taken: set[str] = set()
    for name in names:
        if name in taken:
            continue
        parent, dot, child = name.rpartition(".")
        family = next((siblings for siblings in SIBLINGS if child in siblings), ())
        group = [parent + dot + sibling for sibling in family]
        if not group or not set(group) <= set(names) or not _are_alike(model, group):
            group = [name]
        groups.append(group)
        taken.update(group)
    return groups


def _are_alike(model: nn.Module, names: Sequence[str]) -> bool:
    """Whether linears differ in nothing but their output width."""
    kinds = set()
    for name in names:
        dense = model.get_submodule(name)
        assert isinstance(dense, nn.Linear), "named by the caller"
        kinds.add((dense.in_features, dense.bias is None, dense.weight.dtype))
    return len(kinds) == 1
