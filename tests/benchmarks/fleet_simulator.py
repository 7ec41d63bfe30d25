"""Requests a second that the fleet simulator serves, on one core, and how it grows.

The fleet is twelve replicas of three kinds at 75 % of the rate at which they saturate, by shares in
proportion to capacity. Requests are Poisson arrivals with the lengths of Azure's conversation trace
of 2023 (the planner's `chat` mix); or `FLEET_TRACE` names a trace file, replayed at its own gaps
scaled to the load and repeated where it is too short. Only `simulate` is timed, in one process; the
spread of the repetitions, and what wall clock adds to CPU seconds, is the machine's noise.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from planner.simulator import ReplicaPool, ServingFleet, SimulationResult, SizeShares, simulate
from planner.speed.step_times import StepBatch
from planner.workloads.synthetic import synthetic_trace
from planner.workloads.trace import Trace
from planner.workloads.trace_readers import read_trace

LOAD_FRACTION = 0.75
REPETITIONS = {10_000: 7, 100_000: 5, 1_000_000: 2}
SATURATING_REQUESTS = 4000
LONGEST_INPUT = 14050

WEIGHT_BYTES = 16e9
FLOPS_PER_TOKEN = 16e9
FLOPS_PER_PAIR = 4 * 32 * 4096
KV_BYTES_PER_TOKEN = 131072


@dataclass(frozen=True, slots=True)
class RooflineTimes:
    """A dense model of 8 billion parameters in bf16: 32 layers of width 4096, 8 KV heads of 128."""

    bytes_per_second: float
    flops_per_second: float

    def step_seconds(self, batch: StepBatch) -> float:
        """Return 2 ms and the time for weights or their products, attention, and KV reads."""
        tokens = batch.prefill_tokens + batch.decode_sequences
        return (
            0.002
            + max(
                WEIGHT_BYTES / self.bytes_per_second,
                FLOPS_PER_TOKEN * tokens / self.flops_per_second,
            )
            + FLOPS_PER_PAIR * batch.prefill_pairs / self.flops_per_second
            + KV_BYTES_PER_TOKEN * batch.decode_context_tokens / self.bytes_per_second
        )


POOLS = (
    # 0.8 of the bandwidth and 0.5 of the dense bf16 rate on the data sheets; KV in what 0.9 of the
    # memory leaves beside the weights.
    ReplicaPool("l4", "on-demand", 6, RooflineTimes(0.24e12, 60e12), 42_000, 256, 2048),
    ReplicaPool("a100-80gb", "on-demand", 4, RooflineTimes(1.6e12, 156e12), 427_000, 256, 2048),
    ReplicaPool("h100-sxm", "on-demand", 2, RooflineTimes(2.7e12, 495e12), 427_000, 256, 2048),
)


Figures = dict[str, float | int | bool | list[float]]


def run() -> dict[str, object]:
    """Measure every length of trace, with and without counting tokens, and print the table."""
    source = _source()
    fleet, rate = _loaded_fleet(source(SATURATING_REQUESTS))
    rows = []
    for num_requests, repetitions in REPETITIONS.items():
        trace = source(num_requests).scaled(requests_per_second=rate)
        rows += [_measured(fleet, trace, repetitions, count_tokens=each) for each in (False, True)]
    import_seconds = _import_seconds()
    _show(rows)
    Console().print(
        f"load {LOAD_FRACTION:.0%} of the saturating rate, {rate:.1f} requests/s offered; "
        f"import of planner.simulator {import_seconds:.2f} s, nothing is compiled"
    )
    return {
        "load_fraction": LOAD_FRACTION,
        "offered_requests_per_second": rate,
        "import_seconds": import_seconds,
        "trace": os.environ.get("FLEET_TRACE", "chat mix"),
        "rows": rows,
    }


def _measured(
    fleet: ServingFleet, trace: Trace, repetitions: int, *, count_tokens: bool
) -> Figures:
    rates, cpu_rates = [], []
    for seed in range(repetitions):
        started, cpu_started = time.perf_counter(), time.process_time()
        result = simulate(fleet, trace, seed=seed, count_tokens=count_tokens)
        rates.append(trace.num_requests / (time.perf_counter() - started))
        cpu_rates.append(trace.num_requests / (time.process_time() - cpu_started))
    return {
        "requests": trace.num_requests,
        "tokens_counted": count_tokens,
        "repetitions": repetitions,
        "requests_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "requests_per_cpu_second": statistics.median(cpu_rates),
        "busy_fractions": _busy(result),
        "ttft_p50_seconds": statistics.median(result.ttft_seconds()),
        "tpot_p50_seconds": statistics.median(result.tpot_seconds()),
    }


def _busy(result: SimulationResult) -> list[float]:
    """Return the mean busy fraction of each pool's replicas."""
    return [
        statistics.mean(each.busy_fraction for each in result.replicas if each.pool == pool)
        for pool in result.pools
    ]


def _loaded_fleet(trace: Trace) -> tuple[ServingFleet, float]:
    """Return the fleet and the rate that loads it."""
    capacities = [_capacity(pool, trace) for pool in POOLS]
    total = sum(capacities)
    shares = SizeShares((LONGEST_INPUT,), (tuple(each / total for each in capacities),))
    return ServingFleet(POOLS, {"m": shares}), LOAD_FRACTION * total


def _capacity(pool: ReplicaPool, trace: Trace) -> float:
    """Return the requests a second that the pool completes while its queues are full."""
    alone = {"m": SizeShares((LONGEST_INPUT,), ((1.0,),))}
    flooded = ServingFleet((replace(pool, num_replicas=1),), alone)
    at_once = replace(trace, arrival_seconds=(0.0,) * trace.num_requests)
    result = simulate(flooded, at_once, seed=0)
    # The last tenth is left to a half-empty replica.
    served = sorted(result.completion_seconds)[: trace.num_requests * 9 // 10]
    return pool.num_replicas * len(served) / served[-1]


def _source() -> Callable[[int], Trace]:
    """Return what gives a trace of so many requests, at any rate."""
    path = os.environ.get("FLEET_TRACE")
    if path:
        recorded = replace(read_trace(Path(path)).trace, models=None, max_tokens=None)
        return lambda num_requests: _repeated(recorded, num_requests)
    return _synthetic


def _synthetic(num_requests: int) -> Trace:
    drawn = synthetic_trace(
        "chat",
        requests_per_second=1.0,
        duration_seconds=1.1 * num_requests + 1000,
        generator=random.Random(num_requests),
    )
    return _repeated(drawn, num_requests)


def _repeated(trace: Trace, num_requests: int) -> Trace:
    """Return the first requests of a trace that starts over at its end, a mean gap later."""
    mean_gap = 1 / trace.rate_requests_per_second
    gaps = [mean_gap, *(after - before for before, after in pairwise(trace.arrival_seconds))]
    return Trace(
        tuple(accumulate(islice(cycle(gaps), 1, num_requests), initial=0.0)),
        _cut(trace.input_tokens, num_requests),
        _cut(trace.output_tokens, num_requests),
    )


def _cut(tokens: Sequence[int], num_requests: int) -> tuple[int, ...]:
    return tuple(islice(cycle(tokens), num_requests))


def _import_seconds() -> float:
    """Return the median time that a new process takes to import the simulator."""
    code = "import time; t = time.perf_counter(); import planner.simulator; print(time.perf_counter() - t)"
    return statistics.median(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    )


def _show(rows: list[Figures]) -> None:
    table = Table(title="fleet simulator, median of the repetitions, one core")
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console().print(table)


def _cell(value: float | int | bool | list[float]) -> str:
    if isinstance(value, list):
        return " ".join(f"{each:.2f}" for each in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value > 1000 else f"{value:.4g}"
    return str(value)
