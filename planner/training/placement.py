"""Where stages and data-parallel groups sit: the part of a training plan that follows Holmes."""

from typing import Annotated

from pydantic import Field

from planner.config import StrictModel
from planner.training.cluster import Nic
from planner.units import Number

Degree = Annotated[int, Field(gt=0)]


class Stage(StrictModel):
    """Consecutive layers of the model, on one island."""

    island: int
    """Position of its island in the cluster."""
    num_layers: Annotated[int, Field(gt=0)]
    """Decoder layers it holds."""
    ranks: tuple[int, ...] = Field(min_length=1)
    """Devices: tensor degree times data degree, tensor groups side by side."""


class Placement(StrictModel):
    """Tensor, pipeline and data degrees, stages in contiguous blocks of islands."""

    tensor: Degree
    """Devices that share each layer's matrices; inside one node."""
    pipeline: Degree
    """Stages."""
    data: Degree
    """Copies of each stage."""
    num_micro_batches: Annotated[int, Field(gt=0)]
    """Of each copy, in one step."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """In the order of the layers."""
    data_nics: tuple[Nic, ...] = ()
    """What carries the gradients of each stage."""
    predicted_seconds: Annotated[Number, Field(ge=0)]
    """Of one optimiser step."""
    naive_seconds: Annotated[Number, Field(ge=0)] | None = None
    """The same degrees in plain rank order with equal layers; null: does not fit."""
    reasons: tuple[str, ...] = ()
    """Why this and not the naive order, one sentence each."""
