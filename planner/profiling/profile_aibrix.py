"""AIBrix's two files: the benchmark's JSON lines, and the profile that its generator makes of them.

The benchmark writes a line a metric of each run, in seconds: `TPUT` (requests a second), `TT`
(tokens a second), `E2E`, `TTFT` and `TPOT`, the last over the tokens of all requests together. The
profile holds one rate a size, picked under the target in `slos`, with outputs as rows and inputs as
columns; its 0 says that no run met the target.

Source: vllm-project/aibrix, python/aibrix/aibrix/gpu_optimizer/optimizer/profiling,
`gpu_benchmark.py` and `gen_profile.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from planner.profiling.profile import Cell, LatencySummary, Run, TakenUnder, ThresholdedRate
from planner.profiling.profile_fields import Fields, Imported, size_name
from planner.workloads.slo import Statistic

_NAMES = {"mean_seconds": "mean", "p50_seconds": "P50", "p90_seconds": "P90", "p99_seconds": "P99"}
_STATISTICS: dict[int, Statistic] = {0: "mean", 50: "p50", 90: "p90", 99: "p99"}
_LIMITS = {
    "ttft": "ttft_seconds",
    "tpot": "tpot_seconds",
    "e2e": "end_to_end_seconds",
    "tpat": "seconds_per_any_token",
    "tput": "least_requests_per_second",
    "tt": "least_output_tokens_per_second",
}

Key = tuple[int, int, float, int]
"""Input tokens, output tokens, rate and seed: one run."""


def read_aibrix_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Iterator[Imported]:
    """Yield the runs of a benchmark's lines.

    Raises:
        DocumentError: If a metric is missing, zero or no number.
    """
    for (inputs, outputs, rate, _), metrics in _runs(path, rows).items():
        where = f"{size_name(inputs, outputs)}, {rate:g} requests/s"
        named = {name: Fields(path, row, f"{where}, {name}") for name, row in metrics.items()}
        for name in ("TPUT", "TTFT", "TPOT"):
            if name not in named:
                raise Fields(path, {}, where).error(f"the metric {name} is missing")
        count = named["TPUT"].count("samples")
        achieved = named["TPUT"].positive("mean")
        run = Run(
            offered_requests_per_second=rate,
            achieved_requests_per_second=achieved,
            num_requests=count,
            duration_seconds=count / achieved,
            mean_input_tokens=inputs,
            mean_output_tokens=outputs,
            ttft=_summary(named["TTFT"]),
            token_gap=_summary(named["TPOT"]) if outputs > 1 else None,
            source=f"aibrix benchmark, {path.name}",
        )
        yield Imported({(inputs, outputs): Cell(runs=(run,))}, named["TPUT"].text("model"))


def read_aibrix_profile(fields: Fields) -> Imported:
    """Return the rates of a generated profile, tied to their target.

    Raises:
        DocumentError: If it is ragged, or a rate is negative or no number.
    """
    outputs, inputs = _axes(fields)
    rates = fields.content["tputs"]
    if not isinstance(rates, list) or [len(row) for row in rates] != [len(inputs)] * len(outputs):
        raise fields.error(f"tputs is no {len(outputs)} by {len(inputs)} matrix of indexes")
    source = f"aibrix profile, {fields.path.name}"
    cells = {}
    for output, row in zip(outputs, rates, strict=True):
        for size, rate in zip(inputs, row, strict=True):
            cell = Fields(fields.path, {"tputs": rate}, size_name(size, output))
            # Zero is this format's word for a size that no run served within the target.
            value = None if rate == 0 else cell.positive("tputs")
            cells[size, output] = Cell(
                thresholded=ThresholdedRate(requests_per_second=value, source=source)
            )
    return Imported(cells, taken_under=_target(fields.inside("slos")))


def _runs(path: Path, rows: Iterable[dict[str, Any]]) -> dict[Key, dict[str, dict[str, Any]]]:
    runs: dict[Key, dict[str, dict[str, Any]]] = {}
    for number, row in enumerate(rows, start=1):
        fields = Fields(path, row, f"result {number}")
        inputs, outputs = (int(fields.positive(f"{name}_tokens")) for name in ("input", "output"))
        seed = fields.count("seed") if "seed" in fields else 0
        key = (inputs, outputs, fields.positive("request_rate"), seed)
        metric = fields.text("metric") or ""
        if metric in runs.setdefault(key, {}):
            raise fields.error(f"{metric} of {size_name(inputs, outputs)} stands there twice")
        runs[key][metric] = row
    return runs


def _summary(metric: Fields) -> LatencySummary:
    return LatencySummary(**{ours: metric.positive(name) for ours, name in _NAMES.items()})


def _axes(fields: Fields) -> list[list[int]]:
    axes = fields.content["indexes"]
    if not isinstance(axes, list) or len(axes) != 2:
        raise fields.error("indexes is no pair of output and input lengths")
    named = zip(("output_tokens", "input_tokens"), axes, strict=True)
    return [
        [int(Fields(fields.path, {name: each}, "indexes").positive(name)) for each in axis]
        for name, axis in named
    ]


def _target(slos: Fields) -> TakenUnder:
    percentile = slos.count("percentile") if "percentile" in slos else 0
    if percentile not in _STATISTICS:
        raise slos.error(f"percentile is {percentile}, none of 0, 50, 90 and 99")
    limits = {ours: slos.positive(theirs) for theirs, ours in _LIMITS.items() if theirs in slos}
    return TakenUnder(statistic=_STATISTICS[percentile], tpot_per="token", **limits)
