"""`vllm bench serve --save-result`: one object a run, times in milliseconds.

By default it keeps mean, median and p99; further percentiles need `--metric-percentiles`, and with
`--save-detailed` the times of every request (in seconds) are there, from which all follow.

Source: vllm-project/vllm, `vllm/benchmarks/serve.py` (0.9 to 0.15).
"""

from typing import Any

from planner.profiling.profile import Cell, LatencySummary, Run
from planner.profiling.profile_fields import Fields, Imported, size_name

_NAMES = {
    "mean_seconds": "mean",
    "p50_seconds": "median",
    "p90_seconds": "p90",
    "p95_seconds": "p95",
    "p99_seconds": "p99",
}


def read_vllm(fields: Fields) -> Imported:
    """Return the run in one result.

    Raises:
        DocumentError: If a field is missing, zero or no number.
    """
    completed = fields.positive("completed")
    inputs = fields.positive("total_input_tokens") / completed
    outputs = fields.positive("total_output_tokens") / completed
    fields = fields.at(f"{fields.where} {size_name(inputs, outputs)}".strip())
    details = _details(fields)
    failures = fields.count("failed") if "failed" in fields else _missing(fields, completed)
    run = Run(
        offered_requests_per_second=_offered(fields),
        achieved_requests_per_second=fields.positive("request_throughput"),
        max_in_flight=fields.count("max_concurrency") if "max_concurrency" in fields else None,
        num_requests=int(completed) + failures,
        num_failures=failures,
        duration_seconds=fields.positive("duration"),
        mean_input_tokens=inputs,
        mean_output_tokens=outputs,
        ttft=details.get("ttft") or _summary(fields, "ttft"),
        tpot=(details.get("tpot") or _summary(fields, "tpot")) if outputs > 1 else None,
        token_gap=(details.get("itl") or _optional(fields, "itl")) if outputs > 1 else None,
        source=f"vllm bench serve, {fields.path.name}",
    )
    return Imported({(round(inputs), round(outputs)): Cell(runs=(run,))}, fields.text("model_id"))


def _missing(fields: Fields, completed: float) -> int:
    """Return the failures of versions that do not count them."""
    return fields.count("num_prompts") - int(completed) if "num_prompts" in fields else 0


def _offered(fields: Fields) -> float | None:
    # `inf` sends all at once, or as many as `max_concurrency` lets through: no rate is offered.
    if fields.content.get("request_rate") == "inf":
        return None
    return fields.positive("request_rate")


def _summary(fields: Fields, metric: str) -> LatencySummary:
    names = {ours: f"{theirs}_{metric}_ms" for ours, theirs in _NAMES.items()}
    # The median is written as p50 too where that percentile was asked for.
    known = {ours: name for ours, name in names.items() if name in fields}
    if not known:
        raise fields.error(f"mean_{metric}_ms is missing")
    return LatencySummary(**{ours: fields.positive(name) / 1e3 for ours, name in known.items()})


def _optional(fields: Fields, metric: str) -> LatencySummary | None:
    return _summary(fields, metric) if f"mean_{metric}_ms" in fields else None


def _details(fields: Fields) -> dict[str, LatencySummary]:
    """Return what `--save-detailed` allows: every statistic, from every request that succeeded."""
    ttfts, itls, lengths = (fields.content.get(name) for name in ("ttfts", "itls", "output_lens"))
    errors = fields.content.get("errors") or [""] * len(ttfts or ())
    if not (ttfts and itls and lengths) or not len(ttfts) == len(itls) == len(lengths) == len(
        errors
    ):
        return {}
    rows = [
        (first, gaps, length)
        for first, gaps, length, error in zip(ttfts, itls, lengths, errors, strict=True)
        if not error
    ]
    values: dict[str, list[Any]] = {
        "ttft": [first for first, _, _ in rows],
        "tpot": [sum(gaps) / (length - 1) for _, gaps, length in rows if length > 1],
        "itl": [gap for _, gaps, _ in rows for gap in gaps],
    }
    for name, seconds in values.items():
        if any(not _is_time(value) for value in seconds):
            raise fields.error(f"{name}s holds a value that is no time in seconds")
    return {name: LatencySummary.of(seconds) for name, seconds in values.items() if seconds}


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < float("inf")
