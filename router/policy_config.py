"""`policy:` of the router's file: how a replica is picked, and with which numbers."""

from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel

Weight = Annotated[float, Field(ge=0)]


class RoundRobinConfig(StrictModel):
    """Replicas in turn."""

    kind: Literal["round_robin"]
    """The policy."""


class LeastOutstandingConfig(StrictModel):
    """The replica with the fewest outstanding requests."""

    kind: Literal["least_outstanding"]
    """The policy."""


class PowerOfTwoConfig(StrictModel):
    """The less loaded of two replicas at random."""

    kind: Literal["power_of_two"]
    """The policy."""


class PrefixAwareConfig(StrictModel):
    """The replica that has read the beginning of the prompt, unless it is too busy."""

    kind: Literal["prefix_aware"] = "prefix_aware"
    """The policy."""
    balance_requests: Annotated[int, Field(ge=0)] = 32
    """The least loaded is picked where the most loaded has over so many requests more (SMG) ..."""
    balance_ratio: Annotated[float, Field(ge=1)] = 1.1
    """... and over so many times as many (SMG)."""
    match_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """From which share of the prompt on a held prefix is called one, in the reason."""
    prefix_weight: Weight = 1.0
    """Score of a prompt that is held as a whole."""
    adapter_weight: Weight = 0.3
    """Score of an adapter that is in use there; 0.8 of it for one that is loaded, 0.6 for one the
    replica can load."""
    load_weight: Weight = 1.0
    """Score lost at full load."""
    most_slowness: Annotated[float, Field(ge=1)] = 4.0
    """How many times a slow replica's outstanding tokens may count; 1: measured times do not count."""
    queue_tokens: Annotated[int, Field(ge=1)] = 65_536
    """Outstanding tokens that are full load where `capacity_tokens` is not configured; measured by
    `make bench NAME=prefix-routing`: 32,768 and 131,072 are about as good, 16,384 gives prefixes up."""
    most_nodes: Annotated[int, Field(ge=1)] = 65_536
    """Prefixes remembered for each replica, of about 150 bytes each; the oldest go first."""


class BoundedLoadConfig(StrictModel):
    """Consistent hashing of the prompt's beginning, with a bound on each replica's load."""

    kind: Literal["bounded_load"] = "bounded_load"
    """The policy."""
    load_factor: Annotated[float, Field(gt=1)] = 1.25
    """Most requests of a replica, relative to its even part of all."""
    virtual_nodes: Annotated[int, Field(ge=1, le=4096)] = 256
    """Places of each replica on the ring; more of them share more evenly."""
    leading_characters: Annotated[int, Field(ge=1, le=2**20)] = 1024
    """How much of the prompt makes the key: requests that begin alike up to there go together."""


PolicyConfig = Annotated[
    RoundRobinConfig
    | LeastOutstandingConfig
    | PowerOfTwoConfig
    | PrefixAwareConfig
    | BoundedLoadConfig,
    Field(discriminator="kind"),
]
