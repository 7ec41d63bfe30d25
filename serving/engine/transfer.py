"""Copies between a processor and another device that do not make the processor wait more than once.

A copy from ordinary memory waits for all work queued on the device before it starts. From
page-locked ("pinned") memory it is queued like any other work, so a draft's forwards can be queued
one behind the other, and the one wait of a round is for its result.

Source: CUDA C++ Programming Guide, section "Asynchronous Concurrent Execution"; CUDA Runtime API,
"API synchronization behavior".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(values: NDArray[Any] | Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`, queued behind the work that is there; whole numbers as int64."""
    if isinstance(values, np.ndarray):
        host = torch.from_numpy(np.ascontiguousarray(values))
    else:
        host = torch.as_tensor(values)
    if device.type == "cuda" and host.device.type == "cpu":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def download(tensor: Tensor) -> Tensor:
    """Return `tensor` on the processor, having waited for what computes it."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host
