"""Bytes copied between devices, as torch's dispatcher sees them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class BusBytes(TorchDispatchMode):
    """Counts bytes copied between kinds of devices while it is active; slows what it watches."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation; count it if it copies from one kind of device to another."""
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if name.startswith(("aten.to.", "aten._to_copy", "aten.copy_")):
            source = args[1] if name.startswith("aten.copy_") else args[0]
            if isinstance(result, Tensor) and source.device.type != result.device.type:
                self.num_bytes += source.numel() * source.element_size()
        return result


def count(work: Callable[[], object]) -> int:
    """Return the bytes that `work` copies between kinds of devices."""
    with BusBytes() as bus, torch.inference_mode():
        work()
    return bus.num_bytes
