"""Cost against the latency target: the same file planned under tighter and looser limits."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from planner.errors import UnverifiableError
from planner.fleet.fleet_config import FleetConfig, ServedModel
from planner.fleet.plan import FleetPlanner, Search, fleet_inputs

FACTORS = (0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Factors on every latency limit unless told otherwise."""


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """The cheapest fleet under all latency limits times a factor."""

    factor: float
    limits: str
    """The limits of each model, in words."""
    cost_usd_per_hour: float | None
    """Nothing: no fleet."""
    bound_usd_per_hour: float | None
    """No fleet costs less."""
    mix: str
    """Replicas by offer; why there is none where there is none."""


def pareto(
    config: FleetConfig, *, folder: Path, search: Search, factors: Iterable[float] = FACTORS
) -> tuple[ParetoPoint, ...]:
    """Return the cheapest fleet for each factor on the latency limits, the tightest first.

    The program alone is solved; latencies are not replayed.

    Raises:
        UnverifiableError: If no model has a target to vary, or every speed is stated.
        PlannerError: If an input cannot be read, or no solver works.
    """
    if not any(model.slo for model in config.models):
        raise UnverifiableError("no model has an slo, so there is no target to vary; add one")
    if all(offer.throughput_requests_per_second is not None for offer in config.offers):
        raise UnverifiableError(
            "every offer states throughputs, which hold for one target alone; name a gpu or a "
            "profile to vary it"
        )
    points = []
    rising = sorted(set(factors))
    for number, factor in enumerate(rising):
        search.on_progress(f"limits x {factor:g}", number / len(rising))
        points.append(_point(_scaled(config, factor), factor, folder, search))
    return tuple(points)


def front_of(config: FleetConfig, *, folder: Path, search: Search) -> tuple[ParetoPoint, ...]:
    """Return the front as `pareto` does, or nothing where there is no target to vary."""
    try:
        return pareto(config, folder=folder, search=search)
    except UnverifiableError:
        return ()


def _scaled(config: FleetConfig, factor: float) -> FleetConfig:
    models = tuple(_scaled_model(model, factor) for model in config.models)
    return config.model_copy(update={"models": models, "verification": None})


def _scaled_model(model: ServedModel, factor: float) -> ServedModel:
    if model.slo is None:
        return model
    limits = {
        name: value * factor
        for name in ("ttft_seconds", "tpot_seconds")
        if (value := getattr(model.slo, name)) is not None
    }
    return model.model_copy(update={"slo": model.slo.model_copy(update=limits)})


def _point(config: FleetConfig, factor: float, folder: Path, search: Search) -> ParetoPoint:
    quiet = replace(search, on_progress=lambda text, fraction: None)
    inputs = fleet_inputs(config, folder=folder)
    planner = FleetPlanner(inputs, quiet)
    answer = planner.answer(planner.problem())
    limits = "; ".join(_words(model) for model in config.models if model.slo)
    if not answer.counts:
        return ParetoPoint(factor, limits, None, None, answer.status.replace("_", " "))
    mix = " + ".join(
        f"{count} x {kind.name}"
        for kind, count in zip(inputs.kinds, answer.counts, strict=True)
        if count
    )
    return ParetoPoint(factor, limits, answer.cost_usd_per_hour, answer.bound_usd_per_hour, mix)


def _words(model: ServedModel) -> str:
    assert model.slo is not None
    named = (("TTFT", model.slo.ttft_seconds), ("TPOT", model.slo.tpot_seconds))
    return f"{model.name} " + ", ".join(f"{name} {value:.3g} s" for name, value in named if value)
