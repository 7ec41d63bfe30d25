"""The models of a planned file with everything looked up: sizes, requests, and what to replay."""

import math
from dataclasses import dataclass
from pathlib import Path

from planner.errors import DocumentError, WorkloadError
from planner.fleet.fleet_config import FleetConfig, ServedModel
from planner.fleet.requests_config import MixRequests, TraceRequests
from planner.hardware.catalogue import Catalogue
from planner.hardware.find_model import find_model
from planner.hardware.model_spec import ModelSpec
from planner.workloads.grid import Grid
from planner.workloads.mixes import MIXES
from planner.workloads.trace import Trace
from planner.workloads.trace_workloads import traced_workload
from planner.workloads.workload import RequestSize, Workload
from planner.workloads.workload_source import (
    FileOptions,
    MixOptions,
    WorkloadSource,
    requests_of_file,
    requests_of_mix,
)


@dataclass(frozen=True, slots=True)
class FleetModel:
    """One served model."""

    config: ServedModel
    spec: ModelSpec | None
    """Its sizes; nothing where no offer needs them."""
    workload: Workload
    trace: Trace | None
    """Requests to replay, at the rate asked for, else as they arrived: of one model of a trace at
    about the planned rate, its share of all. Nothing: the workload is a grid."""
    replayed: str
    """What a replay replays, in words."""
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name that requests ask for."""
        return self.config.name

    @property
    def context_tokens(self) -> int | None:
        """Longest sequence to serve: as asked, at most the model's own; nothing: neither is known."""
        own = None if self.spec is None else self.spec.max_context_tokens
        known = (self.config.max_context_tokens, own)
        return min((tokens for tokens in known if tokens is not None), default=None)

    def sizes(self) -> tuple[RequestSize, ...]:
        """Return the request sizes that have requests."""
        return tuple(size for size in self.workload.sizes() if size.rate_requests_per_second > 0)

    def largest_tokens(self) -> tuple[int, ...]:
        """Return input and output of the longest request of each of `sizes`, together."""
        sizes = self.sizes()
        if self.trace is None:
            return tuple(
                math.ceil(size.input_spread_tokens[1]) + math.ceil(size.output_spread_tokens[1])
                for size in sizes
            )
        largest = dict.fromkeys(range(len(sizes)), 0)
        ends = [(size.input_tokens_up_to, size.output_tokens_up_to) for size in sizes]
        number = {cell: s for s, cell in enumerate(ends)}
        cell = Grid(self.workload.input_tokens_up_to, self.workload.output_tokens_up_to).cell
        for inputs, outputs in zip(self.trace.input_tokens, self.trace.output_tokens, strict=True):
            s = number[cell(inputs, outputs)]
            largest[s] = max(largest[s], inputs + outputs)
        return tuple(largest[s] for s in range(len(sizes)))


def lengths_of(size: RequestSize) -> tuple[int, int]:
    """Return the input and output that stand for a size: the means, or its ends where unknown."""
    inputs = size.mean_input_tokens or size.input_tokens_up_to
    outputs = size.mean_output_tokens or size.output_tokens_up_to
    return max(1, round(inputs)), max(1, round(outputs))


def fleet_models(
    config: FleetConfig, catalogue: Catalogue, *, folder: Path
) -> tuple[FleetModel, ...]:
    """Return the models of a file, in its order.

    Args:
        config: The file.
        catalogue: Where models without a folder are looked up.
        folder: Where the file's relative paths start.

    Raises:
        DocumentError: If a trace or a model's config.json cannot be read.
        UnknownNameError: If a model's sizes are needed and nowhere to be found.
        WorkloadError: If a trace or mix gives no workload, or a context above the model's is asked.
    """
    return tuple(_model(config, model, catalogue, folder) for model in config.models)


def _model(
    config: FleetConfig, model: ServedModel, catalogue: Catalogue, folder: Path
) -> FleetModel:
    spec = None
    if any(needs_spec(config, model, number) for number in range(len(config.offers))):
        spec = find_model(_weights(model, folder), catalogue)
        _check_context(model, spec)
    if isinstance(model.workload, Workload):
        grid = "requests drawn from the grid, Poisson arrivals"
        return FleetModel(model, spec, model.workload, None, grid, _grid_notes(model, spec))
    source = _source(model, model.workload, folder)
    trace = source.planned_trace()
    chosen = Grid.chosen(
        trace,
        most_input_ranges=model.workload.most_input_ranges,
        most_output_ranges=model.workload.most_output_ranges,
    )
    traced = traced_workload(trace, requests_per_second=source.requests_per_second, grid=chosen)
    notes = (*source.notes, *traced.histogram.notes)
    named = tuple(f"{model.name}: {note}" for note in notes)
    return FleetModel(model, spec, traced.workload, trace, source.name, named)


def _check_context(model: ServedModel, spec: ModelSpec) -> None:
    asked, own = model.max_context_tokens, spec.max_context_tokens
    if asked is not None and asked > own:
        raise WorkloadError(
            f"{model.name}: max_context_tokens {asked:,} is above the {own:,} of {spec.name}; "
            "lower it, or leave it out"
        )


def needs_spec(config: FleetConfig, model: ServedModel, offer_number: int) -> bool:
    """Tell whether the offer's speed for the model is modelled."""
    offer = config.offers[offer_number]
    if offer.gpu is None or offer.profile is not None:
        return False
    return model.name not in config.stated_throughputs(offer) and (
        offer.throughput_requests_per_second is None
    )


def _weights(model: ServedModel, folder: Path) -> str:
    if model.weights.startswith("."):
        return str(folder / model.weights)
    return model.weights


def _grid_notes(model: ServedModel, spec: ModelSpec | None) -> tuple[str, ...]:
    assert isinstance(model.workload, Workload)
    if spec is None or (model.workload.mean_input_tokens and model.workload.mean_output_tokens):
        return ()
    return (
        f"{model.name}: the workload states no mean tokens; modelled speeds take every request to "
        "be as long as its range allows",
    )


def _source(model: ServedModel, asked: TraceRequests | MixRequests, folder: Path) -> WorkloadSource:
    if isinstance(asked, MixRequests):
        if asked.mix not in MIXES:
            raise WorkloadError(
                f"{model.name}: there is no mix {asked.mix!r}; use one of: {', '.join(MIXES)}"
            )
        return requests_of_mix(
            asked.mix,
            requests_per_second=asked.requests_per_second,
            options=MixOptions(asked.duration_seconds, asked.gap_scv, asked.seed),
        )
    path = folder / asked.trace.expanduser()
    if not path.is_file():
        found = (
            "is a folder" if path.is_dir() else "is no file" if path.exists() else "no such file"
        )
        raise DocumentError(path, f"{found} (workload of {model.name}); name a trace file")
    return requests_of_file(
        path,
        requests_per_second=asked.requests_per_second,
        options=FileOptions(asked.format, asked.broken_rows_fraction, asked.sort_rows, asked.model),
    )
