"""The file of `motley plan fleet`: one model, its workload, and the offers to choose from."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from planner.config import StrictModel
from planner.offers import Offer
from planner.units import Name, Utilisation
from planner.workload import Workload


class FleetConfig(StrictModel):
    """What `motley plan fleet` reads."""

    schema_version: Literal[1] = 1
    """Version of this file's layout."""
    model: Name
    """Name of the served model, a hub id or a name of your own; every throughput is for it."""
    workload: Workload
    """Requests to serve."""
    offers: Annotated[tuple[Offer, ...], Field(min_length=1)]
    """Kinds of replica to choose from."""
    utilisation_limit_fraction: Utilisation = 0.85
    """Highest planned load of a replica where its offer names none. The default keeps waiting
    bounded (the limit inference-fleet-sim plans with); 1.0 leaves no room for bursts."""
    verification: bool = False
    """Replay of the latency on the plan. Only `off` exists; the plan says so."""

    @field_validator("verification")
    @classmethod
    def _is_off(cls, verification: bool) -> bool:
        if verification:
            raise ValueError("latency cannot be verified yet; write `verification: off`")
        return verification

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        seen: set[str] = set()
        for number, offer in enumerate(self.offers):
            if offer.name in seen:
                raise ValueError(
                    f"offers.{number}.name: {offer.name} is there twice; rename one of the offers"
                )
            seen.add(offer.name)
            self.workload.check_shape(
                f"offers.{number}.throughput_requests_per_second of {offer.name}",
                offer.throughput_requests_per_second,
            )
        return self

    def limit_fraction(self, offer: Offer) -> float:
        """Return the highest planned load of one replica of `offer`, above 0, at most 1."""
        return offer.utilisation_limit_fraction or self.utilisation_limit_fraction
