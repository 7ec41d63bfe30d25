"""Every kind of replica a planned file allows, for every model: price, speed, and why not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planner.fleet.fleet_config import FleetConfig
from planner.fleet.fleet_models import FleetModel
from planner.fleet.kind_rates import KindSpeed, modelled_speed, no_speed, stated_speed
from planner.fleet.offer_prices import device_price
from planner.fleet.offers import Offer
from planner.fleet.profiled_speed import profiled_speed
from planner.hardware.catalogue import Catalogue
from planner.hardware.coefficients import Coefficients, built_in_coefficients
from planner.hardware.gpu_spec import GpuSpec

SpeedSource = Literal["stated", "profile", "modelled"]


@dataclass(frozen=True, slots=True)
class ReplicaKind:
    """One offer at one degree of parallelism, serving one model."""

    model: int
    """Index of the model."""
    offer: Offer
    tensor_parallel: int
    pipeline_parallel: int
    price_usd_per_hour: float
    """Of one replica."""
    gpu: GpuSpec | None
    source: SpeedSource
    """Where its speed comes from."""
    speed: KindSpeed

    @property
    def name(self) -> str:
        """Name of the offer at this degree, unique among the kinds of a model."""
        return self.offer.replica_name(self.tensor_parallel, self.pipeline_parallel)

    @property
    def num_devices(self) -> int:
        """Devices of one replica."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True, slots=True)
class _Surroundings:
    config: FleetConfig
    catalogue: Catalogue
    coefficients: Coefficients
    folder: Path


def replica_kinds(
    config: FleetConfig, models: Sequence[FleetModel], catalogue: Catalogue, *, folder: Path
) -> tuple[ReplicaKind, ...]:
    """Return the kinds of every model, by model, then offer, then degree.

    Raises:
        DocumentError: If a profile cannot be read.
        ProfileError: If a profile was taken under another target.
        UnknownNameError: If a device or set of coefficients is in no catalogue.
        WorkloadError: If a model lacks the target that a speed needs.
        PriceError: If a price is neither given nor in a catalogue.
    """
    coefficients = built_in_coefficients(config.coefficients)
    around = _Surroundings(config, catalogue, coefficients, folder)
    return tuple(
        _kind(around, number, model, offer, degrees)
        for number, model in enumerate(models)
        for offer in config.offers
        for degrees in offer.degrees
    )


def _kind(
    around: _Surroundings, number: int, model: FleetModel, offer: Offer, degrees: tuple[int, int]
) -> ReplicaKind:
    source, speed = _speed(around, model, offer, degrees)
    price = device_price(offer, around.catalogue)
    gpu = None
    if offer.gpu is not None:  # Where no device is named, the price is of the whole replica.
        price *= degrees[0] * degrees[1]
        gpu = around.catalogue.gpu(offer.gpu)
    return ReplicaKind(number, offer, *degrees, price, gpu, source, speed)


def _speed(
    around: _Surroundings, model: FleetModel, offer: Offer, degrees: tuple[int, int]
) -> tuple[SpeedSource, KindSpeed]:
    if offer.throughput_requests_per_second is not None:
        stated = around.config.stated_throughputs(offer)
        if model.name not in stated:
            return "stated", no_speed(model, f"states no throughput of {model.name}")
        return "stated", stated_speed(model, stated[model.name])
    if offer.profile is not None:
        path = _profile_path(offer, model)
        if path is None:
            return "profile", no_speed(model, f"has no profile of {model.name}")
        return "profile", profiled_speed(
            model,
            offer,
            path=around.folder / path.expanduser(),
            extrapolates=around.config.extrapolate_profiles,
        )
    assert offer.gpu is not None
    return "modelled", modelled_speed(
        model,
        offer,
        around.catalogue.gpu(offer.gpu),
        tensor_parallel=degrees[0],
        pipeline_parallel=degrees[1],
        coefficients=around.coefficients,
    )


def _profile_path(offer: Offer, model: FleetModel) -> Path | None:
    assert offer.profile is not None
    return offer.profile.get(model.name) if isinstance(offer.profile, dict) else offer.profile
