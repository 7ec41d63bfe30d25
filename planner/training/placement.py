"""Where stages and data-parallel groups sit: the part of a training plan that follows Holmes."""

from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel
from planner.units import Number, Tokens

Degree = Annotated[int, Field(gt=0)]
StepSeconds = Annotated[Number, Field(ge=0)]
Bytes = Annotated[Number, Field(ge=0)]
Rank = Annotated[int, Field(ge=0)]

LinkName = Literal["none", "node", "infiniband", "roce", "ethernet"]
"""What carries a group's traffic; `none`: one device alone, `node`: the link inside a node."""


class Stage(StrictModel):
    """Consecutive layers of the model, on one island."""

    island: Annotated[int, Field(ge=0)]
    """Position of its island in the cluster."""
    num_layers: Annotated[int, Field(gt=0)]
    """Decoder layers it holds."""
    ranks: tuple[Rank, ...] = Field(min_length=1)
    """Devices: tensor times context times data degree. Tensor groups side by side, in them context
    groups, in those the copies."""
    forward_seconds: StepSeconds = 0.0
    """Of one micro-batch, its exchanges inside the stage included."""
    backward_seconds: StepSeconds = 0.0
    """Of one micro-batch."""
    gradient_seconds: StepSeconds = 0.0
    """Of the all-reduce over the copies, once a step."""
    memory_bytes: Bytes = 0.0
    """Most that one of its devices holds: weights, gradients, optimiser and activations."""
    tensor_link: LinkName = "none"
    """What carries the exchanges of its tensor groups."""
    data_link: LinkName = "none"
    """What carries its gradients."""
    next_link: LinkName = "none"
    """What carries activations to the next stage; `none`: it is the last."""
    next_seconds: StepSeconds = 0.0
    """Of one micro-batch's activations on that link, one direction."""


class PlainOrder(StrictModel):
    """Ranks in the order of the file, layers shared out equally: what is done without a plan."""

    tensor: Degree
    """Devices that share each layer's matrices."""
    context: Degree
    """Devices that share each sequence."""
    pipeline: Degree
    """Stages."""
    data: Degree
    """Copies of each stage."""
    predicted_seconds: StepSeconds
    """Of one optimiser step."""


class Placement(StrictModel):
    """Tensor, context, pipeline and data degrees, stages in contiguous blocks of islands."""

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
    predicted_seconds: StepSeconds
    """Of one optimiser step."""
    context: Degree = 1
    """Devices that share each sequence beside the tensor groups."""
    sequence_tokens: Tokens = 1
    """Of every sequence, for which it was planned."""
    micro_batch_sequences: Annotated[int, Field(gt=0)] = 1
    """Sequences of one micro-batch."""
    simulated_seconds: StepSeconds | None = None
    """The step played event by event; null: was not played."""
    naive_seconds: StepSeconds | None = None
    """The same degrees in plain rank order with equal layers; null: does not fit."""
    best_naive: PlainOrder | None = None
    """The fastest plain order of any degrees that take every device; null: none fits."""
    idle_ranks: tuple[Rank, ...] = ()
    """Devices of the cluster that no stage uses."""
    reasons: tuple[str, ...] = ()
    """Why this and not the naive order, and what else the reader should know, a sentence each."""
