"""The file of `motley plan fleet`: models, their requests and targets, offers, and the rules."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from planner.config import StrictModel
from planner.fleet.offers import Offer
from planner.fleet.requests_config import Requests
from planner.hardware.catalogue import Market
from planner.hardware.coefficients import DEFAULT_COEFFICIENTS
from planner.hardware.gpu_spec import DType
from planner.units import Count, ModelSource, Name, NonNegative, Number, Price, Tokens, Utilisation
from planner.workloads.slo import Slo
from planner.workloads.workload import Workload

DEFAULT_REPLICATIONS = 10
"""Replications of drawn requests unless told otherwise, the fewest that give an interval."""

Loss = Literal["one-replica", "one-market"]
Share = Annotated[Number, Field(ge=0, le=1)]


class ServedModel(StrictModel):
    """A model to serve: what it is, what is asked of it, and how fast it must answer."""

    name: Name
    """Name that requests ask for."""
    source: ModelSource | None = None
    """Hub id or folder of its weights; nothing: `name`."""
    weight_dtype: DType = "bfloat16"
    """Format of the weights; where throughputs are measured, only what is given is rendered."""
    kv_dtype: DType | None = None
    """Format of the cache; nothing: that of the weights, 16 bits where they are quantised."""
    max_context_tokens: Tokens | None = None
    """Longest sequence to serve; nothing: the model's own context."""
    slo: Slo | None = None
    """Latency target; needed wherever a speed is modelled or read from a profile."""
    workload: Requests
    """What is asked of it."""
    min_replicas: Count = 0
    """Fewest replicas, all offers together."""

    @property
    def weights(self) -> str:
        """Hub id or folder of its weights."""
        return self.source or self.name

    @property
    def cache_dtype(self) -> DType:
        """Format of the cache."""
        if self.kv_dtype is not None:
            return self.kv_dtype
        return self.weight_dtype if self.weight_dtype in _PLAIN else "bfloat16"

    @property
    def given_weight_dtype(self) -> DType | None:
        """Format of the weights; nothing: the file leaves it to the default."""
        return self.weight_dtype if "weight_dtype" in self.model_fields_set else None

    @property
    def given_cache_dtype(self) -> DType | None:
        """Format of the cache; nothing: the file gives neither it nor that of the weights."""
        is_given = not self.model_fields_set.isdisjoint(("weight_dtype", "kv_dtype"))
        return self.cache_dtype if is_given else None


_PLAIN: tuple[DType, ...] = ("float32", "bfloat16", "float16")


class GpuCap(StrictModel):
    """At most so many devices of those that match every field given."""

    max_gpus: Count
    """Devices, all models and offers together."""
    gpu: Name | None = None
    """Of this device only."""
    market: Market | None = None
    """Of this market only."""
    region: Name | None = None
    """In this region only."""

    @property
    def name(self) -> str:
        """The cap in words."""
        given = (self.gpu, self.market, self.region)
        return "/".join(part for part in given if part) or "all devices"

    def covers(self, offer: Offer) -> bool:
        """Tell whether devices of the offer count."""
        pairs = ((self.market, offer.market), (self.region, offer.region))
        # The catalogue takes a device's name in any case of its letters; so does a cap.
        return (self.gpu is None or self.gpu.casefold() == (offer.gpu or "").casefold()) and all(
            asked is None or asked == held for asked, held in pairs
        )


class Verification(StrictModel):
    """How the plan's latency is replayed."""

    rounds: Annotated[int, Field(ge=1, le=50)] = 12
    """Most programs to solve: the first plan, then tightened ones."""
    replications: Annotated[int, Field(ge=10, le=1000)] = DEFAULT_REPLICATIONS
    """Replications behind each interval where requests are drawn from a grid. A trace or a mix is
    replayed once; its intervals rest on 19 of the twenty stretches that it is cut into."""
    max_requests: Annotated[int, Field(ge=100, le=10_000_000)] | None = None
    """Requests of a model that one replication replays at the most: of a longer trace, those that
    arrive most densely. Nothing: the whole trace; of drawn requests 50,000, or three minutes' worth
    where that is more."""
    savings_seconds: NonNegative = 60.0
    """How long to look for replicas that the replay shows to be spare; 0: not at all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The same seed gives the same draws."""


def _verification(value: Any) -> Any:
    # YAML reads `on` and `off` as truth values unless they are quoted, as many writers do.
    if value in (True, "on"):
        return {}
    return None if value in (False, "off") else value


class FleetConfig(StrictModel):
    """What `motley plan fleet` reads."""

    schema_version: Literal[2]
    """Version of this file's layout."""
    models: Annotated[tuple[ServedModel, ...], Field(min_length=1)]
    """Models to serve; capacity and caps are shared between them."""
    offers: Annotated[tuple[Offer, ...], Field(min_length=1)]
    """Devices and replicas to choose from."""
    caps: tuple[GpuCap, ...] = ()
    """Devices that can be had of a type, market or region."""
    budget_usd_per_hour: Price | None = None
    """Most the fleet may cost; nothing: no limit."""
    max_spot_fraction: Share | None = None
    """Largest share of any request size that spot replicas may serve; nothing: no limit."""
    min_replicas_used: Count = 0
    """Fewest replicas of an offer that serves a model at all."""
    survive: tuple[Loss, ...] = ()
    """Losses after which everything must still be served: of any one replica, of any one market."""
    current_plan: Path | None = None
    """Plan that runs now; relative to this file."""
    max_change_replicas: Count | None = None
    """Most replicas of an offer to add to or take from the current plan's; nothing: no limit."""
    shares: Literal["input", "oracle"] = "input"
    """What shares may depend on: the input size alone, as a router must, or the output too."""
    utilisation_limit_fraction: Utilisation = 0.85
    """Highest planned load of a replica where its offer names none. The default keeps waiting
    bounded (the limit inference-fleet-sim plans with); 1.0 leaves no room for bursts."""
    extrapolate_profiles: bool = False
    """Count requests longer than a profile's cells in proportion to their tokens, with a note,
    instead of taking them for unservable."""
    coefficients: Name = DEFAULT_COEFFICIENTS
    """Set of coefficients for modelled speeds."""
    catalogues: tuple[Path, ...] = ()
    """Files with devices, prices and models over the built-in ones; relative to this file."""
    verification: Annotated[Verification | None, BeforeValidator(_verification)] = Verification()
    """Replay of the latency on the plan; `off`: none, and the plan says so."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _check_unique("models", [model.name for model in self.models])
        _check_unique("offers", [name for offer in self.offers for name in _replica_names(offer)])
        if self.max_change_replicas is not None and self.current_plan is None:
            raise ValueError("max_change_replicas needs current_plan; name the plan that runs now")
        for cap in self.caps:
            if not any(map(cap.covers, self.offers)):
                raise ValueError(f"caps: no offer is of {cap.name}; correct the cap or remove it")
        for offer in self.offers:
            self._check_throughputs(offer)
        return self

    def _check_throughputs(self, offer: Offer) -> None:
        where = f"throughput_requests_per_second of {offer.base_name}"
        known = {model.name: model for model in self.models}
        for name, matrix in self.stated_throughputs(offer).items():
            if name not in known:
                raise ValueError(f"{where}: {name} is none of the models; correct the name")
            workload = known[name].workload
            if not isinstance(workload, Workload):
                raise ValueError(
                    f"{where}: {name} takes its workload from a trace or a mix, whose grid is not "
                    "fixed; write the grid of `motley plan workload` as its workload"
                )
            workload.check_shape(where, matrix)

    def stated_throughputs(self, offer: Offer) -> dict[str, tuple[tuple[float, ...], ...]]:
        """Return the matrices that an offer states, by model."""
        stated = offer.throughput_requests_per_second
        if stated is None:
            return {}
        if isinstance(stated, dict):
            return dict(stated)
        if len(self.models) > 1:
            raise ValueError(
                f"{offer.base_name} states one throughput matrix for {len(self.models)} models; "
                "give one for each, by name"
            )
        return {self.models[0].name: stated}


def _replica_names(offer: Offer) -> list[str]:
    return [offer.replica_name(*degrees) for degrees in offer.degrees]


def _check_unique(where: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: {name} is there twice; rename one of them")
