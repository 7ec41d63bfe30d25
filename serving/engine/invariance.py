"""The start-up test: does a row's result depend on the rows beside it?

Where nothing of the model does, decoding many drafted tokens at once gives the bits that decoding
one by one gives, and drafting cannot change a greedy token. Whether it holds is a property of
library version, processor, thread count and shape, so it is found by running, not assumed.

Shape letters: M rows, I input width, O output width.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serving.engine.adapters import LowRank
from serving.engine.fixed_rows import FixedRowsLinear
from serving.engine.kernels import PackedLinear, kernel_rows
from serving.engine.packing import packed_linears

logger = logging.getLogger(__name__)

_PADDINGS = (1, 2, 4, 8, 16)
_CHEAP_PADDINGS = (2, 4)
"""oneDNN takes four rows in less time than one or two on some processors."""
_ADAPTER_RANKS = (4, 16, 64)
_SEED = 20
_TIMED_RUNS = 5


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What drafting may change of the target's own greedy output, found at start."""

    broken_by: tuple[str, ...]
    """Kernels whose row results depend on other rows; empty where everything tested holds."""
    most_rows: int
    """Rows up to which it was tested."""
    threads: int
    """CPU threads it was tested with."""
    tested: int
    """Kernels and shapes that were tested."""

    @property
    def is_bit_exact(self) -> bool:
        """Whether results are the same bits at every row count."""
        return not self.broken_by

    @property
    def name(self) -> str:
        """The guarantee in words, as logs and `/version` state it."""
        return "bit-exact" if self.is_bit_exact else "up to floating-point order"


def rows_to_test(most_rows: int) -> list[int]:
    """Return every count to 33, then each that has code of its own and those around powers of two."""
    counts = (
        set(range(2, 34)) | {kernel_rows(count) for count in range(34, most_rows)} | {most_rows}
    )
    for power in range(6, most_rows.bit_length() + 1):
        counts |= {2**power - 1, 2**power, 2**power + 1}
    return sorted(count for count in counts if 2 <= count <= most_rows)


@torch.inference_mode()
def is_row_invariant(
    function: Callable[[Tensor], Tensor],
    make_rows: Callable[[int], Tensor],
    row_counts: Iterable[int],
) -> bool:
    """Whether a row alone and the same row among others give the same bits.

    Args:
        function: Maps rows to results, row by row. Shape: (M, ...) to (M, ...).
        make_rows: Returns that many rows, all different. Shape: (M, ...).
        row_counts: Batch sizes to test; first, middle and last row of each are compared.
    """
    counts = sorted(row_counts)
    rows = make_rows(counts[-1])
    alone: dict[int, Tensor] = {}
    for count in counts:
        together = function(rows[:count].clone())
        for place in (0, count // 2, count - 1):
            if place not in alone:
                alone[place] = function(rows[place : place + 1].clone())[0]
            if not torch.equal(alone[place], together[place]):
                return False
    return True


def settle_padding(linear: PackedLinear, row_counts: list[int]) -> bool:
    """Set the fewest rows at which results stop changing.

    Returns:
        Whether any padding makes the layer row-invariant; where none does it runs unpadded.
    """
    make_rows = _random_rows(linear.in_features, linear.weight)
    for padding in _PADDINGS:
        linear.fewest_rows = padding
        if is_row_invariant(linear, make_rows, row_counts):
            return True
    linear.fewest_rows = 1
    return False


def check_model(
    model: nn.Module,
    *,
    most_rows: int,
    intermediate_size: int | None = None,
    functions: Mapping[str, tuple[Callable[[Tensor], Tensor], int]] | None = None,
    others: Mapping[str, Callable[[], bool]] | None = None,
) -> Guarantee:
    """Test every distinct kernel and shape of a packed model and set the paddings.

    Args:
        model: Its linears replaced by packed ones; their `fewest_rows` is set.
        most_rows: Rows of the largest batch the scheduler forms.
        intermediate_size: Width activation functions see; None leaves them untested.
        functions: Further row by row functions of float32 on the processor, with the rows' widths.
        others: Further tests by name, such as attention's; each returns whether it holds.

    Returns:
        What holds; logged in one line.
    """
    start = time.perf_counter()
    counts = rows_to_test(most_rows)
    results = dict(_linears(model, counts)) | dict(_small_modules(model, counts, intermediate_size))
    for name, (function, width) in (functions or {}).items():
        results[name] = is_row_invariant(function, _random_rows(width, torch.empty(0)), counts)
    results |= {name: check() for name, check in (others or {}).items()}
    guarantee = Guarantee(
        broken_by=tuple(sorted(name for name, holds in results.items() if not holds)),
        most_rows=most_rows,
        threads=torch.get_num_threads(),
        tested=len(results),
    )
    logger.info(
        "row invariance guarantee=%s broken_by=%s most_rows=%d threads=%d tested=%d seconds=%.1f",
        guarantee.name.replace(" ", "-"),
        ",".join(guarantee.broken_by) or "none",
        most_rows,
        guarantee.threads,
        guarantee.tested,
        time.perf_counter() - start,
    )
    return guarantee


def _linears(model: nn.Module, counts: list[int]) -> Iterator[tuple[str, bool]]:
    """Test kernels whole, as a layer may share its product; adapters at each layer's own shape."""
    linears = list(packed_linears(model).values())
    by_shape: dict[tuple[str, int, int], list[PackedLinear]] = {}
    for kernel in {id(linear.kernel): linear.kernel for linear in linears}.values():
        shape = (kernel.kind, kernel.in_features, kernel.out_features)
        by_shape.setdefault(shape, []).append(kernel)
    for (kind, width, height), kernels in by_shape.items():
        yield f"{kind}:{width}x{height}", settle_padding(kernels[0], counts)
        for kernel in kernels:
            kernel.fewest_rows = kernels[0].fewest_rows
        if not isinstance(kernels[0], FixedRowsLinear):
            _pad_if_faster(kernels)
    adapted = {(x.in_features, x.out_features, _place(x.weight)): x.weight for x in linears}
    for (width, height, place), like in adapted.items():
        for rank in _ADAPTER_RANKS:
            update = LowRank(_random_rows(width, like)(rank), _random_rows(rank, like)(height), 1.0)
            name = f"lora-r{rank}:{width}x{height}{place}"
            yield name, is_row_invariant(update.apply, _random_rows(width, like), counts)


def _small_modules(
    model: nn.Module, counts: list[int], intermediate_size: int | None
) -> Iterator[tuple[str, bool]]:
    """Test norms, by their weight, and activation functions, which have none, on every device."""
    seen = set()
    others = {(w.device, w.dtype): w for w in (x.weight for x in packed_linears(model).values())}
    for module in model.modules():
        kind = type(module).__name__
        weight = getattr(module, "weight", None)
        width = intermediate_size
        if "Norm" in kind and isinstance(weight, Tensor):
            width = weight.shape[0]
        elif (
            any(True for _ in module.children())
            or module.state_dict()
            or isinstance(module, PackedLinear | nn.Dropout | nn.Identity)
            or "Rotary" in kind
        ):
            continue
        for like in [weight] if isinstance(weight, Tensor) else others.values():
            key = f"{kind}:{width}{_place(like)}"
            if width is not None and key not in seen:
                seen.add(key)
                yield key, is_row_invariant(module, _random_rows(width, like), counts)


def _random_rows(width: int, like: Tensor) -> Callable[[int], Tensor]:
    def make_rows(count: int) -> Tensor:
        generator = torch.Generator().manual_seed(_SEED)
        return torch.randn(count, width, generator=generator).to(like.device, like.dtype)

    return make_rows


def _place(like: Tensor) -> str:
    """Name where and in which type a kernel runs, unless it is float32 on the processor."""
    if like.device.type == "cpu" and like.dtype == torch.float32:
        return ""
    return f":{like.device}:{str(like.dtype).removeprefix('torch.')}"


@torch.inference_mode()
def _pad_if_faster(linears: list[PackedLinear]) -> None:
    """Pad all layers of one shape further where that is faster; results are the same bits.

    One pass goes through all of them, so that large weights come from memory as they do in a step.
    """
    fewest = linears[0].fewest_rows
    row = _random_rows(linears[0].in_features, linears[0].weight)(1)
    seconds: dict[int, list[float]] = {fewest: []}
    seconds |= {padding: [] for padding in _CHEAP_PADDINGS if padding > fewest}
    for _ in range(_TIMED_RUNS):
        for padding, runs in seconds.items():
            start = time.process_time()  # other programs' share left out
            for linear in linears:
                linear.fewest_rows = padding
                linear(row)
            runs.append(time.process_time() - start)
    best = min(seconds, key=lambda padding: min(seconds[padding]))
    for linear in linears:
        linear.fewest_rows = best
