"""What training a batch of sequences costs: FlexSP's cost model (arXiv 2412.01523, section 4.1).

A group of `d` devices that share sequences of lengths `s` takes

    sum over s of (a s^2 + b s) / (d speed)  +  bytes(d) sum of s / (d v)  +  c        seconds

with `a` attention_seconds_per_token_squared (alpha1), `b` linear_seconds_per_token (alpha2), `c`
micro_batch_seconds (beta1), `v` the rate of its all-to-all, and no exchange where d is 1. It holds
as many tokens as d times what the device with the least memory holds.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.errors import InfeasibleError
from planner.hardware.gpu_spec import Date, PerSecond, Source
from planner.training.cluster import Cluster
from planner.units import Name, Number, Tokens

Sharding = Literal["zero3", "zero2", "zero1", "none"]
"""What of the model's states is spread over all devices: all, all but weights, optimiser, nothing."""

_GIB = 2**30

Cost = Annotated[Number, Field(ge=0, le=1e15)]
Count = Annotated[int, Field(gt=0, le=10**6)]

_WHOLE_SHARE: Mapping[Sharding, float] = {"zero3": 0.0, "zero2": 1 / 8, "zero1": 2 / 8, "none": 1.0}
"""Share of the states that every device holds whole, in mixed precision."""


class ModelStates(StrictModel):
    """Weights, gradients and optimiser of the whole model, which grow with position embeddings."""

    max_tokens: Tokens
    """Longest sequence the model is made for."""
    num_bytes: Annotated[Number, Field(ge=0, le=1e18)]
    """Of all devices together where nothing is held twice."""


class SequenceCosts(StrictModel):
    """One model's costs on one kind of device."""

    schema_version: Literal[1]
    """Version of this file's layout."""
    name: Name
    """What was measured."""
    attention_seconds_per_token_squared: Cost
    """Forward and backward of a sequence's attention on one device (alpha1)."""
    linear_seconds_per_token: Cost
    """Forward and backward of everything else on one device (alpha2)."""
    micro_batch_seconds: Cost
    """Once a group and micro-batch, whatever its tokens (beta1)."""
    activation_bytes_per_token: Annotated[Number, Field(gt=0, le=1e12)]
    """Kept from forward to backward for one token."""
    model_states: tuple[ModelStates, ...] = Field(min_length=1)
    """By the longest sequence, ascending; straight lines between and beyond."""
    sharding: Sharding = "zero3"
    """How the states are spread."""
    num_layers: Count
    """Layers that exchange heads for tokens."""
    num_query_heads: Count
    """A group's degree must divide them."""
    num_key_value_heads: Count
    """Where a degree does not divide them, they are copied until it does."""
    head_size: Count
    """Width of one head."""
    exchanged_bytes_per_value: Annotated[int, Field(ge=1, le=8)] = 2
    """Of one number in an all-to-all."""
    all_to_all_bytes_per_second: dict[Annotated[int, Field(gt=1)], PerSecond] = Field(
        default_factory=dict
    )
    """Rate of one device in an exchange by the group's degree; a degree between two takes the next
    larger, beyond the largest that one. Empty: the cluster's links alone decide."""
    source: Source
    """Where the numbers come from."""
    date: Date
    """When they were measured or published."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        lengths = [states.max_tokens for states in self.model_states]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"model_states: max_tokens {lengths} do not ascend; order them")
        if self.num_query_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: {self.num_key_value_heads} does not divide "
                f"{self.num_query_heads} query heads; correct one"
            )
        return self

    def state_bytes(self, *, max_tokens: int, num_devices: int) -> float:
        """Return what one device holds of weights, gradients and optimiser."""
        whole = _WHOLE_SHARE[self.sharding]
        return self._all_states(max_tokens) * (whole + (1 - whole) / num_devices)

    def exchanged_bytes_per_token(self, degree: int) -> float:
        """Return what all of a group send for one token, forward and backward, in all layers.

        Queries and outputs at all query heads, keys and values at the key-value heads, which are
        copied to the least common multiple with the degree. A degree that does not divide the query
        heads, which only published plans have, is costed without copies.
        """
        if degree == 1:
            return 0.0
        copied = self.num_key_value_heads
        if self.num_query_heads % degree == 0:
            copied = math.lcm(copied, degree)
        heads = 2 * self.num_query_heads + 2 * copied
        return 2.0 * self.num_layers * heads * self.head_size * self.exchanged_bytes_per_value

    def tabled_rate(self, degree: int) -> float:
        """Return the measured rate of an exchange, or infinity where none was measured."""
        table = self.all_to_all_bytes_per_second
        if not table:
            return math.inf
        return table[min((d for d in table if d >= degree), default=max(table))]

    def _all_states(self, max_tokens: int) -> float:
        points = self.model_states
        if len(points) == 1:
            return points[0].num_bytes
        upper = next((i for i, p in enumerate(points) if p.max_tokens >= max_tokens), -1)
        high = points[max(upper, 1) if upper >= 0 else -1]
        low = points[points.index(high) - 1]
        share = (max_tokens - low.max_tokens) / (high.max_tokens - low.max_tokens)
        return max(0.0, low.num_bytes + share * (high.num_bytes - low.num_bytes))


@dataclass(frozen=True, slots=True)
class GroupCost:
    """What a group of given devices holds, and how long it takes.

    Attributes:
        degree: Devices.
        capacity_tokens: Most tokens of one micro-batch, all its sequences together; at most 0
            where the model's states alone fill a device.
        seconds_per_token_squared: By the sum of squared lengths.
        seconds_per_token: By the sum of lengths.
        fixed_seconds: Once.
    """

    degree: int
    capacity_tokens: int
    seconds_per_token_squared: float
    seconds_per_token: float
    fixed_seconds: float

    def seconds(self, lengths: Iterable[int]) -> float:
        """Return the time of the sequences together."""
        tokens = squares = 0
        for length in lengths:
            tokens += length
            squares += length * length
        quadratic = self.seconds_per_token_squared * squares
        return quadratic + self.seconds_per_token * tokens + self.fixed_seconds


@dataclass(frozen=True)
class TrainingFleet:
    """A model's costs on a cluster: what every choice of groups is judged by."""

    cluster: Cluster
    costs: SequenceCosts
    max_tokens: int
    """Longest sequence the model is made for, in tokens."""
    ignores_heads: bool = False
    """Offer powers of two whatever the heads, as published; such plans do not run."""

    @property
    def num_devices(self) -> int:
        """Devices of the cluster."""
        return self.cluster.num_devices

    @cached_property
    def degrees(self) -> tuple[int, ...]:
        """Sizes a group may have, ascending."""
        candidates = range(1, self.num_devices + 1)
        if self.ignores_heads:
            return tuple(degree for degree in candidates if degree & (degree - 1) == 0)
        return tuple(degree for degree in candidates if self.costs.num_query_heads % degree == 0)

    @cached_property
    def overfull_ranks(self) -> tuple[int, ...]:
        """Devices that cannot hold their share of the model, which each of a job has, idle or not."""
        return tuple(
            device.rank for device in self.cluster.devices if device.memory_bytes < self._states
        )

    @cached_property
    def _states(self) -> float:
        return self.costs.state_bytes(max_tokens=self.max_tokens, num_devices=self.num_devices)

    @cached_property
    def device_capacities(self) -> tuple[int, ...]:
        """Tokens that each device holds beside its share of the model, by rank."""
        act = self.costs.activation_bytes_per_token
        return tuple(
            max(0, math.floor((device.memory_bytes - self._states) / act))
            for device in self.cluster.devices
        )

    def check_states(self) -> None:
        """Check that every device holds its share of the model.

        Raises:
            InfeasibleError: If one does not.
        """
        if not self.overfull_ranks:
            return
        device = self.cluster.devices[self.overfull_ranks[0]]
        raise InfeasibleError(
            f"rank {device.rank} (island {self.cluster.islands[device.island].name}) may fill "
            f"{device.memory_bytes / _GIB:.3g} GiB and its share of weights, gradients and optimiser "
            f"is {self._states / _GIB:.3g} GiB, idle or not; leave the island out of the cluster, "
            "add devices, or spread the states over all (zero3 in costs, sharding: fsdp2 in a job)"
        )

    def group_cost(self, ranks: Iterable[int]) -> GroupCost:
        """Return what a group of these ranks costs: slowest member, worst link, least memory.

        The exchange runs at the slower of the measured rate of its degree and its worst link.
        """
        members = tuple(ranks)
        degree = len(members)
        costs = self.costs
        speed = min(self.cluster.devices[rank].relative_speed for rank in members)
        capacity = degree * min(self.device_capacities[rank] for rank in members)
        exchange = 0.0
        if degree > 1:
            rate = min(costs.tabled_rate(degree), self.cluster.link_bytes_per_second(members))
            exchange = costs.exchanged_bytes_per_token(degree) / (degree * rate)
        return GroupCost(
            degree=degree,
            capacity_tokens=capacity,
            seconds_per_token_squared=costs.attention_seconds_per_token_squared / (degree * speed),
            seconds_per_token=costs.linear_seconds_per_token / (degree * speed) + exchange,
            fixed_seconds=costs.micro_batch_seconds,
        )
