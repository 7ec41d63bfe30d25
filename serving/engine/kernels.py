"""Linear layers for verification on a processor: a row's result never depends on its neighbours.

Verifying many drafted tokens at once is the same model as decoding one by one only if a linear
gives a row the same bits whatever stands beside it, and pays only if sixteen rows cost little more
than one. Each kernel here takes float32 rows and returns float32 rows; what differs is how weights
are stored:

- float32, reordered once for oneDNN's matrix product;
- bfloat16, rows rounded to bfloat16;
- int8 with one scale per output channel. Where the processor multiplies bytes (VNNI), a row becomes
  16-bit fixed point with its own scale, split into two bytes: products and sums are exact integers,
  so their order cannot matter. Elsewhere rows are rounded to bfloat16;
- int4 with a scale and a zero point per group of inputs, rows rounded to bfloat16.

Lone rows are padded by copies to `fewest_rows`, the count from which results stop changing and one
row is cheapest; `serving.engine.invariance` finds it by test.

Shape letters: M rows, I input width, O output width, G groups of inputs.
"""

import warnings
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Quantization = Literal["float32", "bfloat16", "int8", "int4"]

INT4_GROUP_SIZES = (64, 32, 128)
"""Inputs that share a scale, in the order they are tried; the kernel takes no others."""
_INT4_OUTPUTS = 16
"""The int4 kernel takes output widths that are multiples of this."""
_INT8_INPUTS = 32
"""The bfloat16-activation int8 kernel reads past rows whose width is no multiple of this."""
_DIGIT_LEVELS = 32639
"""Largest fixed-point activation: 127 * 256 + 127, two signed bytes."""
_DIGIT_INPUTS = 2**31 // (255 * 128)
"""Input widths from here on could overflow the 32-bit sums of bytes."""
_SMALLEST = 1e-30
"""Stands in for the largest entry of a row of zeros."""
_OWN_KERNELS = 16
"""Up to so many rows every count has its own code."""
_FEWEST_STEP = 8
"""Rows between two counts with code of their own, at least."""
_COUNTS_PER_OCTAVE = 4
"""Such counts between a power of two and the next, beyond the fewest step."""


class PackedLinear(nn.Module, ABC):
    """A linear layer whose weights are stored for one kernel."""

    kind: str
    """Name of the kernel in logs."""

    def __init__(self, dense: nn.Linear) -> None:
        """Keep the facts of `dense`; subclasses pack its weight, in float32 or any other type."""
        super().__init__()
        self.in_features = dense.in_features
        self.out_features = dense.out_features
        self.fewest_rows = 1
        self.bias = None if dense.bias is None else dense.bias.detach().float()

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the type and on the device of activations, as adapters need to know."""
        return torch.empty(0, dtype=torch.float32)

    @property
    def kernel(self) -> "PackedLinear":
        """What multiplies: this layer, or the one it shares with others."""
        return self

    @property
    @abstractmethod
    def weight_bytes(self) -> int:
        """Memory one product reads for weights and scales."""

    @abstractmethod
    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return the product without bias, float32. Shape: (M, O)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the product of all leading dimensions' rows. Shape: (..., I) to (..., O)."""
        rows_MI = hidden if hidden.ndim == 2 else hidden.reshape(-1, self.in_features)
        padded_MI = pad_rows(rows_MI, self.fewest_rows)
        output_MO = self.multiply(padded_MI)
        if padded_MI is not rows_MI:
            output_MO = output_MO[: rows_MI.shape[0]]
        if self.bias is not None:
            output_MO = output_MO + self.bias
        return output_MO if hidden.ndim == 2 else output_MO.view(*hidden.shape[:-1], -1)

    def extra_repr(self) -> str:
        """Describe the layer as torch's own linear does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.kind}"


def pad_rows(rows_MI: Tensor, fewest_rows: int) -> Tensor:
    """Return the rows with copies of the first behind them, up to a count worth a kernel of its own.

    That is `fewest_rows` at least, and one of `kernel_rows`.
    """
    num_rows = rows_MI.shape[0]
    missing = max(kernel_rows(num_rows), fewest_rows) - num_rows
    if missing <= 0:
        return rows_MI
    return torch.cat((rows_MI, rows_MI[:1].expand(missing, -1)))


def kernel_rows(num_rows: int) -> int:
    """Return the count of rows, this or the next larger, that has code of its own.

    oneDNN compiles and keeps code for every count it meets, half a megabyte a layer's shape. Here
    512 rows have 34 counts, all of which its cache of a thousand holds, and none pads by more than
    a quarter beyond 64 rows.
    """
    if num_rows <= _OWN_KERNELS:
        return num_rows
    octave = 1 << (num_rows - 1).bit_length() - 1
    step = max(octave // _COUNTS_PER_OCTAVE, _FEWEST_STEP)
    return -(-num_rows // step) * step


class Float32Linear(PackedLinear):
    """Float32 weights in oneDNN's own order."""

    kind = "float32"

    def __init__(self, dense: nn.Linear) -> None:
        """Reorder the weight."""
        super().__init__(dense)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(dense.weight.detach().float(), None)

    @property
    def weight_bytes(self) -> int:
        """Memory one product reads."""
        return self.in_features * self.out_features * 4

    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return the product, the sum of each entry in an order fixed by the shape of the weight."""
        product: Tensor = _onednn_product(rows_MI.contiguous(), self._packed, None, "none", [], "")
        return product


# A named overload: looking it up costs a call of a small model a tenth.
_onednn_product = torch.ops.mkldnn._linear_pointwise.default


class Bfloat16Linear(PackedLinear):
    """Bfloat16 weights and rows, sums in float32, results rounded to bfloat16."""

    kind = "bfloat16"

    def __init__(self, dense: nn.Linear) -> None:
        """Round the weight."""
        super().__init__(dense)
        self._weight_OI = dense.weight.detach().bfloat16().contiguous()

    @property
    def weight_bytes(self) -> int:
        """Memory one product reads."""
        return self._weight_OI.nbytes

    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return the product of rounded rows."""
        return functional.linear(rows_MI.bfloat16(), self._weight_OI).float()


def quantize_int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to int8 with one symmetric scale per output channel.

    Returns:
        Whole numbers from -127 to 127, and scales. Each entry is off by at most half its channel's
        scale, which is the channel's largest entry / 127. Shapes: (O, I), (O,).
    """
    scales_O = weight_OI.float().abs().amax(-1).clamp_min(_SMALLEST) / 127
    return (weight_OI.float() / scales_O[:, None]).round_().to(torch.int8), scales_O


class Int8Linear(PackedLinear):
    """Int8 weights, rows rounded to bfloat16: for processors that do not multiply bytes."""

    kind = "int8"

    def __init__(self, dense: nn.Linear) -> None:
        """Quantise the weight."""
        super().__init__(dense)
        self._weight_OI, self._scales_O = quantize_int8(dense.weight.detach())
        # The kernel wants scales of the rows' type; float32 ones after it keep their precision.
        self._ones_O = torch.ones(self.out_features, dtype=torch.bfloat16)

    @property
    def weight_bytes(self) -> int:
        """Memory one product reads."""
        return self._weight_OI.nbytes + self._scales_O.nbytes

    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return the product of rounded rows."""
        product_MO = torch._weight_int8pack_mm(rows_MI.bfloat16(), self._weight_OI, self._ones_O)
        return product_MO.float() * self._scales_O


class Int8DigitsLinear(PackedLinear):
    """Int8 weights against rows of 16-bit fixed point, as exact sums of products of bytes.

    A row x becomes q = round(x * 32639 / max|x|) = 256 high + low with both digits in -128..127;
    one product of bytes takes all M low and M high rows. Rounding moves an entry by at most
    max|x| / 32639 (half of it nearly always), some hundred times finer than the weights' own.

    FBGEMM multiplies: it reads weights at nearly the memory's bandwidth for up to four rows of
    digits, where oneDNN's product of the same bytes takes one and a half times as long.
    """

    kind = "int8-digits"

    def __init__(self, dense: nn.Linear) -> None:
        """Quantise the weight and bring it in the order of the byte product."""
        super().__init__(dense)
        weight_OI, scales_O = quantize_int8(dense.weight.detach())
        middles_O = torch.zeros(self.out_features, dtype=torch.int64)
        with warnings.catch_warnings():
            # Only the tensor type that hands weights to the product is deprecated, not the product.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
            quantized = torch._make_per_channel_quantized_tensor(
                weight_OI, scales_O.double(), middles_O, 0
            )
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)

    @property
    def weight_bytes(self) -> int:
        """Memory one product reads."""
        return (self.in_features + torch.float32.itemsize) * self.out_features

    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return the product of the digits, put together again."""
        units_M1 = rows_MI.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST).div_(_DIGIT_LEVELS)
        digits_2MI = torch.empty(2, *rows_MI.shape)
        low_MI, high_MI = digits_2MI.unbind()
        torch.div(rows_MI, units_M1, out=low_MI)
        torch.mul(low_MI, 1 / 256, out=high_MI).round_()
        low_MI.sub_(high_MI, alpha=256)
        # The product rounds the low digits and adds 128 to both; weights' scales come after the sums.
        low_MO, high_MO = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            digits_2MI, 1.0, 128, self._packed
        )
        return torch.add(low_MO, high_MO, alpha=256).mul_(units_M1)


def quantize_int4(weight_OI: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Round a weight to int4 with a bfloat16 scale and middle per group of inputs.

    Returns:
        Whole numbers 0 to 15, scales and middles: a weight is `(number - 8) * scale + middle`.
        Each entry is off by at most 0.6 of its group's scale (half a step, and the bfloat16
        rounding of scale and middle at the ends of the range, whose middle may be large where all
        entries have one sign). Shapes: (O, I), (O, G), (O, G).
    """
    groups_OGK = weight_OI.float().view(weight_OI.shape[0], -1, group_size)
    low_OG, high_OG = groups_OGK.aminmax(dim=-1)
    scales_OG = ((high_OG - low_OG).clamp_min(_SMALLEST) / 15).bfloat16()
    middles_OG = (low_OG + 8 * scales_OG.float()).bfloat16()
    # In place: a head's weight is the largest of a model, and each copy counts at the peak.
    steps_OGK = (groups_OGK - middles_OG.float()[..., None]).div_(scales_OG.float()[..., None])
    numbers_OGK = steps_OGK.add_(8).round_().clamp_(0, 15).to(torch.int32)
    return numbers_OGK.flatten(1), scales_OG, middles_OG


class Int4Linear(PackedLinear):
    """Int4 weights in groups of inputs, rows rounded to bfloat16."""

    def __init__(self, dense: nn.Linear, group_size: int) -> None:
        """Quantise the weight in groups of `group_size` and pack two numbers a byte."""
        super().__init__(dense)
        self.kind = f"int4-g{group_size}"
        self._group_size = group_size
        numbers_OI, scales_OG, middles_OG = quantize_int4(dense.weight.detach(), group_size)
        self._scales_GO2 = torch.stack((scales_OG.T, middles_OG.T), dim=-1).contiguous()
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers_OI, 1)

    @property
    def weight_bytes(self) -> int:
        """Memory one product reads."""
        return int(self._packed.nbytes + self._scales_GO2.nbytes)

    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return the product of rounded rows."""
        product_MO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows_MI.bfloat16(), self._packed, self._group_size, self._scales_GO2
        )
        return product_MO.float()


def _has_byte_product() -> bool:
    """Whether FBGEMM is there and sums bytes without the saturation of older instructions."""
    return torch.cpu._is_vnni_supported() and "fbgemm" in torch.backends.quantized.supported_engines


def pack(dense: nn.Linear, quantization: Quantization) -> PackedLinear:
    """Return the kernel for a layer: the asked one, or the next finer one that takes its shape."""
    if quantization == "int4":
        if dense.out_features % _INT4_OUTPUTS == 0:
            for group_size in INT4_GROUP_SIZES:
                if dense.in_features % group_size == 0:
                    return Int4Linear(dense, group_size)
        quantization = "int8"
    if quantization == "int8":
        if _has_byte_product() and dense.in_features < _DIGIT_INPUTS:
            return Int8DigitsLinear(dense)
        if dense.in_features % _INT8_INPUTS == 0:
            return Int8Linear(dense)
        quantization = "bfloat16"
    return Bfloat16Linear(dense) if quantization == "bfloat16" else Float32Linear(dense)
