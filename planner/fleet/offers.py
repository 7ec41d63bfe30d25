"""What can be rented or is owned: kinds of replica with their price, and their speed or device."""

from itertools import product
from pathlib import Path
from typing import Annotated, Self

from pydantic import Discriminator, Field, Tag, model_validator

from planner.config import StrictModel
from planner.hardware.catalogue import Market
from planner.units import Count, Name, Price, Throughputs, Tokens, Utilisation

Degrees = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)]
"""Degrees of parallelism to choose from."""


def _kind(value: object) -> str:
    return "models" if isinstance(value, dict) else "matrix"


StatedThroughputs = Annotated[
    Annotated[Throughputs, Tag("matrix")] | Annotated[dict[Name, Throughputs], Tag("models")],
    Discriminator(_kind),
]
"""One matrix, or one for each model by name."""


class Offer(StrictModel):
    """A device in one market, from which replicas of one or several degrees are built.

    The speed of a replica is stated here, read from a profile, or modelled from the device, in this
    order: the first that is given holds.
    """

    name: Name | None = None
    """Unique name; nothing: device, market and region, such as `L4/spot/aws-us-east-1`."""
    gpu: Name | None = None
    """Device, as a catalogue calls it; nothing: every speed is stated or from a profile."""
    market: Market = "on-demand"
    """How the devices are had."""
    region: Name | None = None
    """Where."""
    price_usd_per_hour: Price | None = None
    """Price of one device (where none is named, of one replica); nothing: the catalogue's, and 0
    for owned hardware."""
    tensor_parallel: Degrees = (1,)
    """Devices that share every layer: one kind of replica for each degree."""
    pipeline_parallel: Degrees = (1,)
    """Groups of layers, one after another: one kind of replica for each."""
    throughput_requests_per_second: StatedThroughputs | None = None
    """Highest rate one replica holds under the latency target when all requests have that size;
    a row an input range, a column an output range; 0 or null: cannot serve that size. With several
    models, by model; models left out are not served."""
    profile: Path | dict[Name, Path] | None = None
    """File of `motley plan profile`, or one for each model; relative to this file."""
    max_gpus: Count | None = None
    """Devices that can be had, all models and degrees together; nothing: as many as needed."""
    max_replicas: Count | None = None
    """Replicas of each kind that can be had, all models together; nothing: as many as needed."""
    utilisation_limit_fraction: Utilisation | None = None
    """Highest planned load of a replica; nothing: the file's limit."""
    memory_fraction: Utilisation = 0.9
    """Share of a device's memory that the engine may use."""
    max_sequences: Tokens = 256
    """Sequences that a replica runs at once."""
    max_batched_tokens: Tokens = 2048
    """Tokens of one step of a replica, prompts and answers; at least `max_sequences`."""
    kv_capacity_tokens: Tokens | None = None
    """Tokens whose keys and values fit one replica, where its profile did not observe it."""
    engine_arguments: tuple[str, ...] = ()
    """Further arguments for the engine of each replica, copied into the plan."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.name is None and self.gpu is None:
            raise ValueError("has neither name nor gpu; give one of them")
        if self.max_batched_tokens < self.max_sequences:
            raise ValueError(
                f"{self.base_name}: max_batched_tokens is {self.max_batched_tokens}, below the "
                f"{self.max_sequences} of max_sequences; raise it"
            )
        self._check_speed()
        self._check_price()
        return self

    def _check_speed(self) -> None:
        has_speed = self.throughput_requests_per_second is not None or self.profile is not None
        if self.gpu is None and not has_speed:
            raise ValueError(
                f"{self.name} has no speed; give gpu, profile or throughput_requests_per_second"
            )
        if self.throughput_requests_per_second is not None and self.profile is not None:
            raise ValueError(f"{self.base_name} states throughputs beside a profile; give one")
        if has_speed and len(self.degrees) > 1:
            raise ValueError(
                f"{self.base_name} has one measured speed and {len(self.degrees)} degrees of "
                "parallelism; write an offer for each degree"
            )

    def _check_price(self) -> None:
        if self.market == "owned" and self.price_usd_per_hour:
            raise ValueError(
                f"{self.base_name} is owned at {self.price_usd_per_hour:g} USD an hour; "
                "leave the price out or choose another market"
            )
        if self.market == "owned" and self.max_gpus is None and self.max_replicas is None:
            raise ValueError(
                f"{self.base_name} is owned without a cap; say how many with max_gpus or max_replicas"
            )
        if self.gpu is None and self.price_usd_per_hour is None and self.market != "owned":
            raise ValueError(f"{self.name} has no price_usd_per_hour; add it (0 where owned)")

    @property
    def base_name(self) -> str:
        """The name, given or made."""
        parts = (self.gpu, self.market, self.region)
        return self.name or "/".join(part for part in parts if part)

    @property
    def degrees(self) -> tuple[tuple[int, int], ...]:
        """Tensor- and pipeline-parallel degree of each kind of replica."""
        return tuple(product(self.tensor_parallel, self.pipeline_parallel))

    def replica_name(self, tensor_parallel: int, pipeline_parallel: int) -> str:
        """Return the unique name of the kind of replica with these degrees."""
        if len(self.degrees) == 1 and self.name is not None:
            return self.name
        stages = "" if pipeline_parallel == 1 else f"{pipeline_parallel}x"
        if not stages and tensor_parallel == 1:
            return self.base_name
        return f"{stages}{tensor_parallel}x{self.base_name}"

    def limit_fraction(self, default: float) -> float:
        """Return the highest planned load of a replica, above 0, at most 1."""
        return self.utilisation_limit_fraction or default
