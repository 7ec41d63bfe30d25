"""Requests of a trace file or of a synthetic mix, with the words to report them."""

from dataclasses import dataclass, fields
from pathlib import Path
from random import Random

from planner.console import open_with_progress
from planner.errors import DocumentError, WorkloadError
from planner.workloads.mixes import MIXES
from planner.workloads.synthetic import synthetic_trace
from planner.workloads.trace import Trace
from planner.workloads.trace_formats import FORMATS
from planner.workloads.trace_readers import read_trace


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How to read a trace file; the fields are those of `read_trace`."""

    format: str | None = None
    broken_rows_fraction: float = 0.0
    sort_rows: bool = False
    model: str | None = None
    """Only requests of this model; nothing: all of them."""


@dataclass(frozen=True, slots=True)
class MixOptions:
    """How to draw from a mix; the fields are those of `synthetic_trace`."""

    duration_seconds: float = 3600.0
    gap_scv: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class WorkloadSource:
    """Requests, and the words to report them with."""

    name: str
    """File and format, or mix."""
    trace: Trace
    requests_by_model: dict[str, int]
    """All models of the source, also those that were not asked for."""
    requests_per_second: float
    """Rate at which the requests are to arrive."""
    notes: tuple[str, ...]
    is_rate_asked: bool = False
    """Whether that rate is the user's, not the one at which the trace's requests arrived."""

    def planned_trace(self) -> Trace:
        """Return the requests at the rate at which they are to arrive.

        Raises:
            WorkloadError: If they all arrive at once and a rate was asked for.
        """
        if not self.is_rate_asked:
            return self.trace
        return self.trace.scaled(requests_per_second=self.requests_per_second)


def requests_of(
    source: str,
    *,
    requests_per_second: float | None,
    file_options: FileOptions,
    mix_options: MixOptions,
) -> WorkloadSource:
    """Return the requests of a mix if `source` names one, else of the file at that path.

    Raises:
        DocumentError: As of `read_trace`.
        WorkloadError: If options of the other kind are given, the trace or the mix gives no rate
            and none is given, no request is for the model, or as of `synthetic_trace`.
    """
    if source in MIXES:
        _refuse(file_options, f"{source} is a mix (./{source} would be a file)")
        if requests_per_second is None:
            raise WorkloadError(
                f"the mix {source!r} has no rate of its own; give one with --requests-per-second"
            )
        return requests_of_mix(source, requests_per_second=requests_per_second, options=mix_options)
    _refuse(mix_options, f"{source} is a file (mixes are {', '.join(MIXES)})")
    path = Path(source)
    if not path.exists():
        known = ", ".join(MIXES)
        raise DocumentError(path, f"no such file, and no mix of this name ({known}); correct it")
    return requests_of_file(path, requests_per_second=requests_per_second, options=file_options)


def _refuse(options: FileOptions | MixOptions, why: str) -> None:
    plain = type(options)()
    for field in fields(options):
        if getattr(options, field.name) != getattr(plain, field.name):
            option = f"--{field.name.replace('_', '-')}"
            raise WorkloadError(f"{option} has no meaning here: {why}; leave it out")


def requests_of_file(
    path: Path, *, requests_per_second: float | None, options: FileOptions
) -> WorkloadSource:
    """Return the requests of a trace file, whatever its name.

    Raises:
        DocumentError: As of `read_trace`.
        WorkloadError: If the format is unknown, the trace gives no rate and none is given, or no
            request is for the model.
    """
    if options.format is not None and options.format not in FORMATS:
        raise WorkloadError(f"format is {options.format!r}; use one of: {', '.join(FORMATS)}")
    reading = read_trace(
        path,
        format_name=options.format,
        broken_rows_fraction=options.broken_rows_fraction,
        sort_rows=options.sort_rows,
        open_file=open_with_progress,
    )
    whole, model = reading.trace, options.model
    trace = whole if model is None else whole.of_model(model)
    # By its own first and last arrival, a model that is rarely asked for has no sure rate.
    share = trace.num_requests / whole.num_requests
    counts, notes = whole.num_requests_by_model, reading.notes
    if model is None and len(counts) > 1:
        mixed = (
            f"requests of {len(counts)} models are counted together; pick one with model (--model)"
        )
        notes = (*notes, mixed)
    name = f"{path.name} ({reading.format_name})"
    return WorkloadSource(
        name=name if model is None else f"{name}, model {model}",
        trace=trace,
        requests_by_model=counts,
        requests_per_second=requests_per_second or whole.rate_requests_per_second * share,
        notes=notes,
        is_rate_asked=requests_per_second is not None,
    )


def requests_of_mix(
    mix_name: str, *, requests_per_second: float, options: MixOptions
) -> WorkloadSource:
    """Return requests drawn from a mix of this name.

    Raises:
        WorkloadError: As of `synthetic_trace`.
    """
    trace = synthetic_trace(
        mix_name,
        requests_per_second=requests_per_second,
        duration_seconds=options.duration_seconds,
        generator=Random(options.seed),
        gap_scv=options.gap_scv,
    )
    is_poisson = options.gap_scv == 1
    arrivals = "Poisson arrivals" if is_poisson else f"gamma arrivals of SCV {options.gap_scv:g}"
    return WorkloadSource(
        name=f"mix {mix_name}, {arrivals}, seed {options.seed}",
        trace=trace,
        requests_by_model={},
        requests_per_second=requests_per_second,
        notes=(f"synthetic lengths: {MIXES[mix_name].source}",),
    )
