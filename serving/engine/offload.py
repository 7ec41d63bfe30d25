"""How many of a model's first layers fit a GPU: counted, not tried.

With its first N layers a GPU holds the token embedding, their weights, and their share of the pages
of keys and values, whose memory is set for all layers of both devices together.
"""

from dataclasses import dataclass
from typing import Literal

from serving.engine.pages import PAGE_TOKENS
from serving.errors import ModelError

LayerCount = int | Literal["auto"]
"""A number of layers, or as many as fit."""

_FIXED_RESERVE_BYTES = 256 << 20
"""For the matrix library's work space and what allocators round up to; a judgement."""


@dataclass(frozen=True, slots=True)
class OffloadSizes:
    """What the parts of a model take."""

    embedding_bytes: int
    """The token embedding on the GPU."""
    layer_bytes: tuple[int, ...]
    """The weights of each decoder layer on the GPU."""
    gpu_kv_bytes_per_token: int
    """Keys and values of one layer there."""
    cpu_kv_bytes_per_token: int
    """Keys and values of one layer on the processor."""
    kv_bytes: int
    """Memory for all pages of all layers, on both."""

    @property
    def num_layers(self) -> int:
        """Decoder layers of the model."""
        return len(self.layer_bytes)

    def kv_bytes_per_token(self, num_layers: int) -> int:
        """Return what a cached token takes with that many layers on the GPU, on both devices."""
        on_gpu = num_layers * self.gpu_kv_bytes_per_token
        return on_gpu + (self.num_layers - num_layers) * self.cpu_kv_bytes_per_token

    def gpu_bytes(self, num_layers: int) -> int:
        """Return what the first `num_layers` take on the GPU; nothing where there are none."""
        if num_layers == 0:
            return 0
        num_pages = self.kv_bytes // (PAGE_TOKENS * self.kv_bytes_per_token(num_layers))
        num_tokens = PAGE_TOKENS * (num_pages + 1)  # with the null page
        pages = num_layers * self.gpu_kv_bytes_per_token * num_tokens
        return self.embedding_bytes + sum(self.layer_bytes[:num_layers]) + pages


def most_layers(sizes: OffloadSizes, available_bytes: int) -> int:
    """Return the largest number of first layers that fits into `available_bytes`."""
    fitting = [n for n in range(sizes.num_layers + 1) if sizes.gpu_bytes(n) <= available_bytes]
    return max(fitting, default=0)


def reserve_bytes(*, most_rows: int, hidden_size: int, intermediate_size: int) -> int:
    """Return what must stay free beside weights and pages: activations of the largest batch.

    Counted as eight tensors of the hidden size and three of the feed-forward's in float32.
    """
    return _FIXED_RESERVE_BYTES + 4 * most_rows * (8 * hidden_size + 3 * intermediate_size)


def decide_layers(
    wanted: LayerCount, sizes: OffloadSizes, *, free_bytes: int, reserved_bytes: int, name: str
) -> int:
    """Return how many layers to put on the GPU.

    Args:
        wanted: What was asked for.
        sizes: What the parts take.
        free_bytes: Free memory of the GPU.
        reserved_bytes: What of it is for others.
        name: The model's, for messages.

    Raises:
        ModelError: If the model has fewer layers, or the wanted ones do not fit.
    """
    available = free_bytes - reserved_bytes
    if wanted == "auto":
        return most_layers(sizes, available)
    if wanted > sizes.num_layers:
        raise ModelError(
            f"{name}: has {sizes.num_layers} layers, --target-gpu-layers asks for {wanted}; ask for "
            f"at most {sizes.num_layers}"
        )
    if sizes.gpu_bytes(wanted) > available:
        raise ModelError(
            f"{name}: its first {wanted} layers take {_gib(sizes.gpu_bytes(wanted))} on the GPU, which "
            f"has {_gib(free_bytes)} free, {_gib(reserved_bytes)} of it reserved; at most "
            f"{most_layers(sizes, available)} fit"
        )
    return wanted


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
