"""Gives back the memory of weights that are read from a mapped file, once they have been used.

Libraries map weight files rather than read them: a page counts as the process's memory from its
first use until the whole file is unmapped, which one tensor that stays prevents. Dropping pages of
an unchanged file loses nothing: the next use reads them again, mostly from the system's cache.

Source: madvise(2), MADV_DONTNEED on private mappings of files.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from serving.engine.huge_pages import Advise, system_advise

WORTHWHILE_BYTES = 1 << 20
"""Smaller tensors are left alone."""

_WEIGHT_FILES = (".safetensors", ".bin")
_HUB_FILES = "/blobs/"
"""What the hub's cache calls its files: the names with endings are links to them."""
_MAPS = Path("/proc/self/maps")


def drop_pages(tensor: Tensor, *, maps: Path = _MAPS, advise: Advise | None = None) -> int:
    """Drop the whole pages of a tensor that lies in a mapped weight file and was never written to.

    Args:
        tensor: Any; one that is not wholly in such a file stays as it is.
        maps: Linux's list of the process's mappings; none is no support.
        advise: Stands in for the system call `madvise(address, length, advice)`.

    Returns:
        Bytes asked to be dropped.
    """
    if tensor.device.type != "cpu" or tensor.nbytes < WORTHWHILE_BYTES or not maps.exists():
        return 0
    start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    files = _file_ranges(maps.read_text().splitlines())
    if not tensor.is_contiguous() or not any(a <= start and stop <= b for a, b in files):
        return 0  # anonymous memory would lose its contents
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = stop // mmap.PAGESIZE * mmap.PAGESIZE - start
    (advise or system_advise())(start, length, mmap.MADV_DONTNEED)
    return length


@contextmanager
def dropping_pages(model: nn.Module) -> Iterator[None]:
    """While it lasts, a linear's forward leaves no page of a mapped file behind."""
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    hooks = [linear.register_forward_hook(_drop_behind) for linear in linears]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _drop_behind(linear: nn.Module, inputs: object, output: object) -> None:
    assert isinstance(linear, nn.Linear), "hooked as one"
    drop_pages(linear.weight)


def _file_ranges(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each mapping of a weight file."""
    for line in lines:
        place, _, name = line.partition(" ")
        if name.endswith(_WEIGHT_FILES) or _HUB_FILES in name:
            first, last = place.split("-")
            yield int(first, 16), int(last, 16)
