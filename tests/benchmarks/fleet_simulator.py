"""Requests a second that the fleet simulator serves, on one core.

The fleet is twelve replicas of three kinds at 75 % of the rate at which they saturate, by shares in
proportion to capacity. Lengths are log-normal with the mean and median of Azure's conversation trace
of 2023 (input 1155 and 1020 tokens, at most 14050; output 211 and 129, at most 1000) and arrivals
Poisson; or `FLEET_TRACE` names a file of that trace's form, replayed at its own gaps scaled to the
load and repeated where it is too short. Only `simulate` is timed.
"""

import csv
import math
import os
import random
import statistics
import time
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from planner.simulator import ReplicaPool, ServingFleet, SizeShares, Trace, simulate
from planner.step_times import StepBatch

LOAD_FRACTION = 0.75
REPETITIONS = {10_000: 5, 100_000: 3, 1_000_000: 1}
SATURATING_REQUESTS = 4000
LONGEST_INPUT = 14050
LONGEST_OUTPUT = 1000


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


@dataclass(frozen=True, slots=True)
class Requests:
    """Gaps before each request, 1 on average, and tokens."""

    gaps: list[float]
    inputs: list[int]
    outputs: list[int]

    def trace(self, rate_requests_per_second: float) -> Trace:
        """Return the requests at a rate; infinite: all at once."""
        arrivals = accumulate(gap / rate_requests_per_second for gap in self.gaps)
        return Trace(list(arrivals), self.inputs, self.outputs)


def run() -> list[dict[str, float]]:
    """Measure every length of trace and print the table."""
    fleet, rate = _loaded_fleet(_requests(SATURATING_REQUESTS))
    rows = []
    for num_requests, repetitions in REPETITIONS.items():
        trace = _requests(num_requests).trace(rate)
        seconds = []
        for seed in range(repetitions):
            started = time.perf_counter()
            result = simulate(fleet, trace, seed=seed)
            seconds.append(time.perf_counter() - started)
        row = {
            "requests": num_requests,
            "repetitions": repetitions,
            "requests_per_second": num_requests / statistics.median(seconds),
            "slowest": num_requests / max(seconds),
            "offered_per_second": rate,
            "busy_fraction": statistics.mean(each.busy_fraction for each in result.replicas),
            "ttft_p50_seconds": statistics.median(result.ttft_seconds()),
            "tpot_p50_seconds": statistics.median(result.tpot_seconds()),
        }
        rows.append(row)
    _show(rows)
    return rows


def _loaded_fleet(requests: Requests) -> tuple[ServingFleet, float]:
    """Return the fleet and the rate that loads it."""
    capacities = [_capacity(pool, requests) for pool in POOLS]
    total = sum(capacities)
    shares = SizeShares((LONGEST_INPUT,), (tuple(each / total for each in capacities),))
    return ServingFleet(POOLS, {"m": shares}), LOAD_FRACTION * total


def _capacity(pool: ReplicaPool, requests: Requests) -> float:
    """Return the requests a second that the pool completes while its queues are full."""
    alone = {"m": SizeShares((LONGEST_INPUT,), ((1.0,),))}
    flooded = ServingFleet((replace(pool, num_replicas=1),), alone)
    result = simulate(flooded, requests.trace(math.inf), seed=0)
    # The last tenth is left to a half-empty replica.
    served = sorted(result.completion_seconds)[: len(requests.gaps) * 9 // 10]
    return pool.num_replicas * len(served) / served[-1]


def _requests(num_requests: int) -> Requests:
    path = os.environ.get("FLEET_TRACE")
    if path:
        return _recorded(Path(path), num_requests)
    draws = random.Random(num_requests)
    return Requests(
        [draws.expovariate(1) for _ in range(num_requests)],
        [_log_normal(draws, 1155, 1020, LONGEST_INPUT) for _ in range(num_requests)],
        [_log_normal(draws, 211, 129, LONGEST_OUTPUT) for _ in range(num_requests)],
    )


def _log_normal(draws: random.Random, mean: float, median: float, most: int) -> int:
    drawn = draws.lognormvariate(math.log(median), math.sqrt(2 * math.log(mean / median)))
    return max(1, min(most, round(drawn)))


def _recorded(path: Path, num_requests: int) -> Requests:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Python reads six digits of a second, the trace has seven.
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    gaps = [0.0, *(max(0.0, after - before) for before, after in pairwise(times))]
    mean = sum(gaps) / len(gaps)
    return Requests(
        list(islice(cycle(gap / mean for gap in gaps), num_requests)),
        list(islice(cycle(int(row["ContextTokens"]) for row in rows), num_requests)),
        list(islice(cycle(int(row["GeneratedTokens"]) for row in rows), num_requests)),
    )


def _show(rows: list[dict[str, float]]) -> None:
    table = Table(title="fleet simulator, median of the repetitions, one core")
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)
