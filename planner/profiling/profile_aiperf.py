"""AIPerf's `profile_export_aiperf.json`: one object a run; every metric tells its unit.

`inter_token_latency` is a request's mean time per token after the first, so it is our TPOT.

Source: docs.nvidia.com/aiperf, "profile_export_aiperf.json Schema" (1.0 to 1.5) and
ai-dynamo/aiperf, `src/aiperf/common/models/export_models.py`. The offered rate stands in
`input_config`: `loadgen.request_rate`, in newer versions `rate` of the phase `profiling`.
"""

from planner.profiling.profile import Cell, LatencySummary, Run
from planner.profiling.profile_fields import Fields, Imported, size_name

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}
_NAMES = {
    "mean_seconds": "avg",
    "p50_seconds": "p50",
    "p90_seconds": "p90",
    "p95_seconds": "p95",
    "p99_seconds": "p99",
}


def read_aiperf(fields: Fields) -> Imported:
    """Return the run in one export.

    Raises:
        DocumentError: If a metric is missing, zero, no number or of an unknown unit, or the run was
            cancelled.
    """
    if fields.content.get("was_cancelled"):
        raise fields.error("was_cancelled is true, so its figures are partial")
    inputs = fields.inside("input_sequence_length").positive("avg")
    outputs = fields.inside("output_sequence_length").positive("avg")
    fields = fields.at(f"{fields.where} {size_name(inputs, outputs)}".strip())
    answered = fields.inside("request_count").count("avg")
    failures = fields.inside("error_request_count")
    num_failures = failures.count("avg") if "avg" in failures else 0
    offered, max_in_flight = _load(fields)
    run = Run(
        offered_requests_per_second=offered,
        achieved_requests_per_second=fields.inside("request_throughput").positive("avg"),
        max_in_flight=max_in_flight,
        num_requests=answered + num_failures,
        num_failures=num_failures,
        duration_seconds=_scale(fields.inside("benchmark_duration"))
        * fields.inside("benchmark_duration").positive("avg"),
        mean_input_tokens=inputs,
        mean_output_tokens=outputs,
        ttft=_summary(fields.inside("time_to_first_token")),
        tpot=_summary(fields.inside("inter_token_latency")) if outputs > 1 else None,
        source=f"aiperf, {fields.path.name}",
    )
    cells = {(round(inputs), round(outputs)): Cell(runs=(run,))}
    return Imported(cells, _model(fields.inside("input_config")))


def _summary(metric: Fields) -> LatencySummary:
    scale = _scale(metric)
    known = {ours: theirs for ours, theirs in _NAMES.items() if theirs in metric}
    if not known:
        raise metric.error("avg is missing; a profile needs --streaming")
    return LatencySummary(**{ours: metric.positive(name) * scale for ours, name in known.items()})


def _scale(metric: Fields) -> float:
    unit = metric.text("unit")
    if unit not in _SECONDS:
        raise metric.error(f"unit is {unit}, none of {', '.join(_SECONDS)}")
    return _SECONDS[unit]


def _load(fields: Fields) -> tuple[float | None, int | None]:
    """Return offered rate and bound of open requests, whichever are set."""
    config = fields.inside("input_config")
    load, rate = config.inside("loadgen"), "request_rate"
    phases = config.content.get("phases")
    for phase in phases if isinstance(phases, list) else ():
        if isinstance(phase, dict) and phase.get("name") == "profiling":
            load, rate = Fields(config.path, phase, f"{config.where}, phases.profiling"), "rate"
    if rate not in load and "concurrency" not in load:
        raise load.error(f"holds neither {rate} nor concurrency, so what was offered is not known")
    return (
        load.positive(rate) if rate in load else None,
        load.count("concurrency") if "concurrency" in load else None,
    )


def _model(config: Fields) -> str | None:
    """Return the model's name from either form of the configuration."""
    names = config.inside("endpoint").content.get("model_names") or config.content.get("models")
    items = names.get("items") if isinstance(names, dict) else names
    first = items[0] if isinstance(items, list) and items else None
    name = first.get("name") if isinstance(first, dict) else first
    return name if isinstance(name, str) else None
