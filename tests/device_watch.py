"""Where tensors meet: notices operations over two devices, and copies between them.

`meta`, which every build of torch has, stands in for a GPU: it keeps shapes, types and devices, and
no numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COPIES = ("aten.to.", "aten._to_copy", "aten.copy_")


class DeviceWatch(TorchDispatchMode):
    """Records every operation it sees whose tensors are on different kinds of devices."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []
        self.copied: list[tuple[int, ...]] = []
        """Shapes of what was copied to another kind of device."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and look at what went in and came out."""
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        kinds = {tensor.device.type for tensor in given if tensor.dim()}
        if len(kinds) > 1:
            self.mixed.append(f"{func} of {[tuple(tensor.shape) for tensor in given]}")
        elif str(func).startswith(_COPIES) and result.device.type != given[-1].device.type:
            self.copied.append(tuple(result.shape))
        return result


def fetched(tensor: Tensor) -> Tensor:
    """Stand in for `download`: zeros on the processor, since `meta` has no numbers to give."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype)
