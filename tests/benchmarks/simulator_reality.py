"""The simulator against reality: the tiny model, served, profiled, fitted, predicted, replayed.

`motley serve` runs on one core (one thread, no draft), the load generator on another. The endpoint
is profiled as `motley plan profile` does it, step times are fitted to the profile, and the time to
first token and per output token of three loads that were not profiled (other sizes, other rates) is
predicted by simulation; then the very traces that were simulated are replayed. Profiling and
replaying alternate, REPETITIONS times, so that what else the machine does falls on both; compared
are the medians over the repetitions.

On a shared machine the kernel tells how long the server's threads were ready and waited for their
core. A measurement in which that was more than QUIET_FRACTION of the time they wanted is made again
while TRYING_SECONDS last; then the quietest attempt counts. What is left of the waiting is taken
out of the profile's times and put onto the simulated ones, replay by replay: a server that got half
a core is predicted at half speed. The figures hold the errors without that too, and all waits.

How the engine's rules (`serving/engine/scheduler.py`) map to the simulator's: a step computes one
token of every decoding sequence and, beside them, up to 512 prompt tokens (`MOST_PREFILL_TOKENS`),
first come first served, while the simulator's budget counts both, so half of the sequences' places
are added to it. Both admit by the memory that is free; here it is far larger than what sixteen
requests need.
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from planner.demo.processes import Server
from planner.profiling.clock import Clock
from planner.profiling.endpoint import Endpoint, connected
from planner.profiling.fitted_steps import FittedReplica, fitted_replica
from planner.profiling.load import Request, Sent, poisson_arrivals, send
from planner.profiling.measure import Measurement, Settings
from planner.profiling.profile import LatencySummary, Profile
from planner.profiling.profile_assembly import ReplicaFacts, merged
from planner.simulator import ReplicaPool, ServingFleet, SizeShares, simulate
from planner.speed.step_times import StepBatch, StepTimes
from planner.workloads.trace import Trace

MODEL = Path(__file__).parents[2] / "serving" / "models" / "tiny" / "target"
REPETITIONS = int(os.environ.get("REALITY_REPETITIONS", "5"))
TRYING_SECONDS = float(os.environ.get("REALITY_TRYING_SECONDS", "600"))
QUIET_FRACTION = 0.1
LOADS = (0.35, 0.6, 0.85)
"""Of the capacity that floods of the live endpoint show before the first repetition."""
FLOODS = 2
REQUESTS = 80
WARM_UP = 8
"""Requests of a replay that are left out, live and simulated: they meet an empty endpoint."""
INPUTS, OUTPUTS = (32, 320), (8, 64)
"""Shortest and longest of the replayed requests, uniform between."""
MAX_SEQUENCES = 16
MOST_PREFILL_TOKENS = 512
KV_TOKENS = (1 << 30) // (2 * 12 * 2 * 64 * 4)
"""1 GiB of keys and values: 12 layers, 2 heads of 64, float32."""
SETTINGS = Settings(
    input_tokens=(64, 512),
    output_tokens=(32,),
    rates_requests_per_second=(3.0,),
    run_seconds=5.0,
    most_sequences=MAX_SEQUENCES,
    repetitions=1,
)
TARGET = 0.25

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Latency:
    """What is compared."""

    ttft_p50: float
    ttft_p95: float
    tpot_p50: float
    tpot_p95: float

    @classmethod
    def of(cls, ttft: list[float], tpot: list[float]) -> "Latency":
        first, each = LatencySummary.of(ttft), LatencySummary.of(tpot)
        return cls(first.p50_seconds, first.p95_seconds, each.p50_seconds, each.p95_seconds)


@dataclass(frozen=True, slots=True)
class Slowed:
    """Step times of a server that gets a part of its core."""

    step_times: StepTimes
    factor: float

    def step_seconds(self, batch: StepBatch) -> float:
        return self.factor * self.step_times.step_seconds(batch)


class Watch:
    """Repeats what was measured while the server had to wait for its core."""

    def __init__(self, pid: int) -> None:
        # The engine is a process of its own, started by the server.
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._processes = [Path(f"/proc/{each}/task") for each in (pid, *children)]
        self._until = time.monotonic() + TRYING_SECONDS
        self.waits: list[float] = []
        """Part of its time that the server waited in each measurement that counts."""

    async def quietly(self, measure: Callable[[], Awaitable[Result]]) -> tuple[Result, float]:
        """Return the quietest measurement and how much slower waiting made the server."""
        best: tuple[float, Result] | None = None
        while best is None or (best[0] > QUIET_FRACTION and time.monotonic() < self._until):
            ran, waited = self._times()
            result = await measure()
            ran_more, waited_more = self._times()
            share = (waited_more - waited) / (ran_more - ran + waited_more - waited)
            if best is None or share < best[0]:
                best = (share, result)
        self.waits.append(best[0])
        return best[1], 1 / (1 - best[0])

    def _times(self) -> tuple[int, int]:
        """Return nanoseconds run and waited, of all threads. Source: proc(5), schedstat."""
        tasks = [task for process in self._processes for task in process.iterdir()]
        rows = [(task / "schedstat").read_text().split() for task in tasks]
        return sum(int(row[0]) for row in rows), sum(int(row[1]) for row in rows)


def run() -> dict[str, object]:
    """Measure, predict, replay, compare; print the table."""
    server_core, client_core = _cores()
    os.sched_setaffinity(0, {client_core})
    words = [
        sys.executable,
        "-m",
        "motley",
        "serve",
        str(MODEL),
        "--port",
        "0",
        "--threads",
        "1",
        "--served-model-name",
        "tiny",
    ]
    words += ["--max-sequences", str(MAX_SEQUENCES)]
    folder = tempfile.TemporaryDirectory()
    with folder, Server(words, log=Path(folder.name) / "serve.log") as server:
        os.sched_setaffinity(server.pid, {server_core})
        figures = asyncio.run(_alternate(server.wait_for_url(120), Watch(server.pid)))
    _show(figures)
    return figures


def _cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


async def _alternate(url: str, watch: Watch) -> dict[str, object]:
    profiles: list[tuple[Profile, float]] = []
    live: list[dict[int, tuple[Latency, float]]] = []
    async with connected(url, "tiny", api_key=None, clock=Clock()) as endpoint:
        await _flood(endpoint)
        flooded = [await watch.quietly(lambda: _flood(endpoint)) for _ in range(FLOODS)]
        capacity = statistics.mean(rate for rate, _ in flooded)
        traces = [_trace(load * capacity, seed) for seed, load in enumerate(LOADS)]
        for repetition in range(REPETITIONS):
            profiles.append(await watch.quietly(lambda: _profile(endpoint)))
            # The order turns, so that no load always follows the same one.
            order = [(repetition + place) % len(LOADS) for place in range(len(LOADS))]
            found = {
                place: await watch.quietly(lambda trace=traces[place]: _replay(endpoint, trace))
                for place in order
            }
            live.append(found)
            flooded.append(await watch.quietly(lambda: _flood(endpoint)))
            waits = ", ".join(f"{wait:.0%}" for wait in watch.waits[-5:])
            print(f"repetition {repetition + 1} of {REPETITIONS}, waits {waits}", flush=True)
    return _figures(profiles, traces, live, flooded) | {"waited_fractions": watch.waits}


def _figures(
    profiles: list[tuple[Profile, float]],
    traces: list[Trace],
    live: list[dict[int, tuple[Latency, float]]],
    flooded: list[tuple[float, float]],
) -> dict[str, object]:
    uncorrected = _fitted([profile for profile, _ in profiles])
    fitted = _fitted([_without_waits(*each) for each in profiles])
    rows = [
        _row(trace, fitted, uncorrected, [each[place] for each in live])
        for place, trace in enumerate(traces)
    ]
    return {
        "repetitions": REPETITIONS,
        "fit_median_relative_error": fitted.median_relative_error,
        "fit_worst_relative_error": fitted.worst_relative_error,
        "request_overhead_seconds": fitted.request_overhead_seconds,
        "step_times": str(fitted.step_times),
        "predicted_capacity": statistics.median(_capacity(fitted, slow) for _, slow in flooded),
        "live_capacity": [rate for rate, _ in flooded],
        "rows": rows,
    }


def _without_waits(profile: Profile, slowness: float) -> Profile:
    """Return the profile with the times that a core of its own would have given."""
    prompts = tuple(
        each.model_copy(update={"ttft_seconds": each.ttft_seconds / slowness})
        for each in profile.lone_prompts
    )
    batches = tuple(
        each.model_copy(update={"step_seconds": each.step_seconds / slowness})
        for each in profile.decode_batches
    )
    mixed = tuple(
        each.model_copy(update={"seconds": each.seconds / slowness})
        for each in profile.mixed_prompts
    )
    return profile.model_copy(
        update={"lone_prompts": prompts, "decode_batches": batches, "mixed_prompts": mixed}
    )


async def _profile(endpoint: Endpoint) -> Profile:
    facts = ReplicaFacts(gpu="cpu-host", model="tiny", date="2024-01-01", dtype="float32")
    work = Measurement(
        endpoint,
        facts,
        SETTINGS,
        clock=Clock(),
        keep=lambda profile: None,
        on_progress=lambda stage, done, total: None,
    )
    return await work.run()


def _fitted(profiles: list[Profile]) -> FittedReplica:
    return fitted_replica(merged(profiles), most_prefill_tokens=MOST_PREFILL_TOKENS)


def _fleet(fitted: FittedReplica, slowness: float) -> ServingFleet:
    pool = ReplicaPool(
        name="tiny",
        market="here",
        num_replicas=1,
        step_times=Slowed(fitted.step_times, slowness),
        kv_capacity_tokens=KV_TOKENS,
        max_sequences=MAX_SEQUENCES,
        max_batched_tokens=MOST_PREFILL_TOKENS + MAX_SEQUENCES // 2,
        request_overhead_seconds=slowness * fitted.request_overhead_seconds,
    )
    return ServingFleet((pool,), {"tiny": SizeShares((INPUTS[1],), ((1.0,),))})


def _sizes(seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    draws = random.Random(seed)
    inputs = tuple(draws.randint(*INPUTS) for _ in range(REQUESTS))
    return inputs, tuple(draws.randint(*OUTPUTS) for _ in range(REQUESTS))


def _trace(rate: float, seed: int) -> Trace:
    arrivals = poisson_arrivals(rate, REQUESTS, random.Random(1000 + seed))
    return Trace(tuple(each - arrivals[0] for each in arrivals), *_sizes(seed))


def _capacity(fitted: FittedReplica, slowness: float) -> float:
    """Return the requests a second that the fitted replica completes when all come at once."""
    result = simulate(_fleet(fitted, slowness), Trace((0.0,) * REQUESTS, *_sizes(99)), seed=0)
    return REQUESTS / max(result.completion_seconds)


def _predict(fitted: FittedReplica, trace: Trace, slowness: float) -> Latency:
    result = simulate(_fleet(fitted, slowness), trace, seed=0)
    counted = slice(WARM_UP, None)
    return Latency.of(result.ttft_seconds(counted), result.tpot_seconds(counted))


async def _replay(endpoint: Endpoint, trace: Trace) -> Latency:
    counted = (await _sent(endpoint, trace))[WARM_UP:]
    return Latency.of(
        [each.ttft_seconds for each in counted], [each.tpot_seconds or 0.0 for each in counted]
    )


async def _flood(endpoint: Endpoint) -> float:
    """Return the requests a second that the endpoint completes when all come at once."""
    sent = await _sent(endpoint, Trace((0.0,) * REQUESTS, *_sizes(99)))
    return REQUESTS / max(each.answer.end_seconds for each in sent)


async def _sent(endpoint: Endpoint, trace: Trace) -> list[Sent]:
    draws = random.Random()
    columns = zip(trace.arrival_seconds, trace.input_tokens, trace.output_tokens, strict=True)
    requests = [
        Request(arrival, draws.choices(range(256, 1024), k=inputs), outputs)
        for arrival, inputs, outputs in columns
    ]
    sent = await send(endpoint, requests, clock=Clock())
    failed = [each.answer.failure for each in sent if each.answer.failure]
    assert not failed, failed[0]
    return sent


def _row(
    trace: Trace,
    fitted: FittedReplica,
    uncorrected: FittedReplica,
    live: list[tuple[Latency, float]],
) -> dict[str, object]:
    predictions = [_predict(fitted, trace, slowness) for _, slowness in live]
    plain = _predict(uncorrected, trace, 1.0)
    row: dict[str, object] = {"requests_per_second": trace.num_requests / trace.arrival_seconds[-1]}
    for name in Latency.__slots__:
        measured = [getattr(each, name) for each, _ in live]
        predicted = [getattr(each, name) for each in predictions]
        middle = statistics.median(measured)
        row[name] = {
            "predicted": statistics.median(predicted),
            "predicted_all": predicted,
            "live": middle,
            "live_all": measured,
            "relative_error": statistics.median(predicted) / middle - 1,
            "uncorrected_relative_error": getattr(plain, name) / middle - 1,
        }
    return row


def _show(figures: dict[str, object]) -> None:
    table = Table(title=f"predicted / live, medians of {REPETITIONS} repetitions")
    live = statistics.median(figures["live_capacity"])
    for name in ("of capacity", "requests/s", *Latency.__slots__):
        table.add_column(name, justify="right", no_wrap=True)
    errors, plain = [], []
    for row in figures["rows"]:
        cells = [row[name] for name in Latency.__slots__]
        errors += [abs(cell["relative_error"]) for cell in cells]
        plain += [abs(cell["uncorrected_relative_error"]) for cell in cells]
        table.add_row(
            f"{row['requests_per_second'] / live:.0%}",
            f"{row['requests_per_second']:.2f}",
            *(f"{c['predicted'] * 1e3:.3g}/{c['live'] * 1e3:.3g} ms" for c in cells),
        )
    figures["median_absolute_relative_error"] = statistics.median(errors)
    figures["uncorrected_median_absolute_relative_error"] = statistics.median(plain)
    console = Console(width=110)
    console.print(table)
    console.print(
        f"capacity predicted {figures['predicted_capacity']:.2f}, live {live:.2f} requests/s; fit "
        f"off by {figures['fit_median_relative_error']:.1%} (median), "
        f"{figures['fit_worst_relative_error']:.1%} (worst)"
    )
    waits = sorted(figures["waited_fractions"])
    console.print(
        f"the server waited for its core {statistics.median(waits):.0%} of its time (median of the "
        f"measurements; most {waits[-1]:.0%})"
    )
    console.print(
        f"median absolute relative error {statistics.median(errors):.1%} (target {TARGET:.0%}), "
        f"worst {max(errors):.1%}; "
        f"without regard to waits {statistics.median(plain):.1%}"
    )
