"""The rates of a kind of replica that was measured, and its speed for replays where it was fitted."""

from pathlib import Path

from planner.errors import ProfileError, WorkloadError
from planner.fleet.fleet_models import FleetModel, lengths_of
from planner.fleet.kind_rates import KindRate, KindSpeed, too_long
from planner.fleet.offers import Offer
from planner.profiling.fitted_speed import fitted_speed
from planner.profiling.profile import Profile, read_profile
from planner.profiling.profile_reading import ProfiledRate, headroom, profiled_throughputs
from planner.speed.replica_speed import ReplicaSpeed


def profiled_speed(model: FleetModel, offer: Offer, *, path: Path, extrapolates: bool) -> KindSpeed:
    """Return what the profile at `path` tells of the offer serving the model.

    Raises:
        DocumentError: If it cannot be read.
        ProfileError: If it is of another device or degree, or holds rates picked under another
            target.
        WorkloadError: If the model has no target to read it under.
    """
    slo = model.config.slo
    if slo is None:
        raise WorkloadError(
            f"{model.name} has no slo, under which {path} is to be read; add ttft_seconds, "
            "tpot_seconds or both"
        )
    profile = read_profile(path)
    _check_device(profile, offer, path)
    sizes = [lengths_of(size) for size in model.sizes()]
    try:
        found = profiled_throughputs(profile, sizes, slo, extrapolates=extrapolates)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None
    speed, why_none = _speed(model, profile, offer)
    rates = tuple(
        _rate(each, largest, speed)
        for each, largest in zip(found, model.largest_tokens(), strict=True)
    )
    return KindSpeed(
        rates,
        speed,
        why_none,
        tuple(_notes(model, offer, profile, found)),
        headroom(profile, sizes, slo, extrapolates=extrapolates),
    )


def _check_device(profile: Profile, offer: Offer, path: Path) -> None:
    ((tensor_parallel, pipeline_parallel),) = offer.degrees
    num_devices = tensor_parallel * pipeline_parallel
    measured = (profile.gpu.casefold(), profile.gpus_per_replica)
    if offer.gpu is not None and measured != (offer.gpu.casefold(), num_devices):
        raise ProfileError(
            f"{path}: is of {profile.gpus_per_replica} x {profile.gpu}, the offer "
            f"{offer.base_name} of {num_devices} x {offer.gpu}; name the right profile"
        )


def _rate(found: ProfiledRate, largest_tokens: int, speed: ReplicaSpeed | None) -> KindRate:
    reason = too_long(largest_tokens, speed) if speed is not None else ""
    if reason:
        return KindRate(0.0, reason)
    return KindRate(found.requests_per_second or 0.0, found.reason or "", "profile")


def _speed(model: FleetModel, profile: Profile, offer: Offer) -> tuple[ReplicaSpeed | None, str]:
    """Return the fitted speed, or nothing and why: the profile holds too little to fit."""
    contexts = (profile.limits.max_context_tokens, model.context_tokens)
    try:
        speed = fitted_speed(
            profile,
            max_batched_tokens=offer.max_batched_tokens,
            max_sequences=profile.limits.max_sequences or offer.max_sequences,
            kv_capacity_tokens=profile.limits.kv_capacity_tokens or offer.kv_capacity_tokens,
            max_context_tokens=min((each for each in contexts if each is not None), default=None),
        )
    except ProfileError as error:
        return None, str(error)
    return speed, ""


def _notes(
    model: FleetModel, offer: Offer, profile: Profile, found: tuple[ProfiledRate, ...]
) -> list[str]:
    notes = []
    if profile.model not in (model.name, model.config.weights):
        notes.append(
            f"the profile of {offer.base_name} is of {profile.model}, planned as {model.name}"
        )
    given = model.config.given_weight_dtype
    if profile.dtype and given and profile.dtype != given:
        notes.append(
            f"the profile of {offer.base_name} is of {profile.dtype} weights, planned as {given}"
        )
    if profile.is_simulated:
        notes.append(f"the profile of {offer.base_name} is simulated: its savings prove nothing")
    extrapolated = [rate.note for rate in found if rate.note and "extrapolated" in rate.note]
    if extrapolated:
        further = f" and {len(extrapolated) - 1} more sizes" if len(extrapolated) > 1 else ""
        notes.append(f"profile of {offer.base_name}: {extrapolated[0]}{further}")
    return notes
