"""Devices: what their data sheets say about memory, speed and the links between them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ByteSize, Field

from planner.config import StrictModel
from planner.units import Name, Number

DType = Literal["float32", "bfloat16", "float16", "fp8", "int8", "int4"]
"""How numbers are stored. fp8, int8 and int4 name quantised weights."""

PerSecond = Annotated[Number, Field(gt=0, le=1e18)]
"""Bytes or floating-point operations a second, above 0."""

Date = Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
"""A year, a month or a day: 2024, 2024-04 or 2024-04-22."""

Source = Annotated[str, Field(min_length=1, max_length=500)]
"""Where the numbers beside it come from."""


class Interconnect(StrictModel):
    """The link between the devices of one replica."""

    kind: Literal["nvlink", "infinity-fabric", "pcie", "ethernet"]
    """Its family."""
    bytes_per_second: PerSecond
    """Peak of one device in one direction."""


class GpuSpec(StrictModel):
    """One device: a GPU, or a CPU host in a GPU's place."""

    name: Name
    """Name used in offers and prices."""
    kind: Literal["gpu", "cpu"] = "gpu"
    """`cpu`: a host without an accelerator."""
    memory_bytes: Annotated[ByteSize, Field(gt=0)]
    """Memory the driver offers, such as `80GiB`."""
    bandwidth_bytes_per_second: PerSecond
    """Peak memory bandwidth."""
    dense_flops_per_second: Annotated[dict[DType, PerSecond], Field(min_length=1)]
    """Peak dense matrix operations by number format; a format without units of its own is absent."""
    interconnect: Interconnect
    """Link to the other devices of a replica."""
    source: Source
    """Where the numbers of this entry come from."""
    date: Date
    """When the source was published."""

    def compute_dtype(self, weights: DType) -> DType | None:
        """Return the format that matrices are multiplied in; nothing: weights so stored cannot run.

        Quantised weights without units of their own are widened to 16 bits first. 16-bit formats
        and float32 are never exchanged: their results differ.
        """
        if weights in self.dense_flops_per_second:
            return weights
        if weights in ("fp8", "int8", "int4"):
            wide: tuple[DType, ...] = ("bfloat16", "float16")
            return next((dtype for dtype in wide if dtype in self.dense_flops_per_second), None)
        return None
