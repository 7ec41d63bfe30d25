"""What the router costs: added latency, processor time a request, 2,000 checked streams, LiteLLM.

Mock replicas and load generator are C programs (`router_load/`), so that the proxies are what is
measured. Latencies are taken at a fixed arrival rate, directly and through the router in turns: the
added latency is the difference of the two quantiles of one round, and the middle round is told.
Processor time is what /proc says of the router's process while every connection sends without pause.
"""

import os
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.rival_environments import RivalError, litellm
from benchmarks.router_contestants import (
    Proxy,
    litellm_proxy,
    motley_router,
    write_request,
)
from benchmarks.router_programs import (
    Load,
    compile_programs,
    mock_replicas,
    raised_priority,
    run_load,
)
from benchmarks.router_table import show

RATE = 500.0
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS", "8"))
NUM_STREAMS = int(os.environ.get("STREAMS", "2000"))
NUM_CHUNKS = 50
CHUNK_SECONDS = 0.4
RAMP_SECONDS = 8.0
CONNECTIONS = 64


def run() -> dict[str, object]:
    """Measure, print, and return the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_programs(folder)
        prompt_bytes = write_request(folder / "whole.http")
        write_request(folder / "stream.http", stream=True)
        with mock_replicas(folder, num_chunks=NUM_CHUNKS, interval_seconds=CHUNK_SECONDS) as mock:
            ceiling = _saturate(folder, mock.ports[0])
            with motley_router(folder, mock.ports) as proxy:
                ours = _throughput(folder, proxy)
                with raised_priority(proxy.pid, mock.pid) as is_raised:
                    latency = _added_latency(folder, proxy, mock.ports[0])
                streams = _streams(folder, proxy)
            rival = _litellm(folder, mock.ports)
    figures: dict[str, object] = {
        "prompt_bytes": prompt_bytes,
        "mock_requests_per_second": ceiling.done / ceiling.seconds,
        "motley": ours,
        "latency": latency | {"priority_was_raised": is_raised},
        "streams": streams,
        "litellm": rival,
    }
    show(figures)
    return figures


def _saturate(folder: Path, port: int, *, is_loose: bool = False) -> Load:
    return run_load(
        folder,
        "closed",
        port,
        folder / "whole.http",
        connections=CONNECTIONS,
        seconds=SECONDS,
        is_loose=is_loose,
    )


def _throughput(folder: Path, proxy: Proxy, *, is_loose: bool = False) -> dict[str, object]:
    """Return requests a processor second and a second, saturated, after one round of warm-up."""
    _saturate(folder, proxy.port, is_loose=is_loose)
    rounds = []
    for _ in range(ROUNDS):
        before, lines = proxy.processor_seconds(), _num_lines(proxy)
        load = _saturate(folder, proxy.port, is_loose=is_loose)
        spent = proxy.processor_seconds() - before
        rounds.append(
            {
                "per_processor_second": load.done / spent,
                "per_second": load.done / load.seconds,
                "num_errors": load.num_errors,
                "lines_per_request": (_num_lines(proxy) - lines) / max(1, load.done),
            }
        )
    rates = [each["per_processor_second"] for each in rounds]
    return {
        "per_processor_second": statistics.median(rates),
        "num_errors": sum(each["num_errors"] for each in rounds),
        "rounds": rounds,
    }


def _added_latency(folder: Path, proxy: Proxy, direct_port: int) -> dict[str, object]:
    """Return the middle round's added quantiles, and every round."""
    rounds = []
    for _ in range(ROUNDS):
        direct, routed = (_at_rate(folder, port) for port in (direct_port, proxy.port))
        rounds.append(
            {
                "added_p50_seconds": routed.p50_seconds - direct.p50_seconds,
                "added_p99_seconds": routed.p99_seconds - direct.p99_seconds,
                "direct": asdict(direct),
                "routed": asdict(routed),
            }
        )
    names = ("added_p50_seconds", "added_p99_seconds")
    figures: dict[str, object] = {
        name: statistics.median(float(str(each[name])) for each in rounds) for name in names
    }
    return figures | {"rounds": rounds}


def _at_rate(folder: Path, port: int) -> Load:
    return run_load(
        folder,
        "open",
        port,
        folder / "whole.http",
        connections=CONNECTIONS,
        seconds=SECONDS,
        rate=RATE,
    )


def _streams(folder: Path, proxy: Proxy) -> dict[str, object]:
    """Return what all streams at once cost; every byte of each is checked."""
    idle_bytes, spent_before = proxy.resident_bytes(), proxy.processor_seconds()
    held = [0]

    def note() -> None:
        held[0] = proxy.resident_bytes()

    load = run_load(
        folder,
        "streams",
        proxy.port,
        folder / "stream.http",
        connections=NUM_STREAMS,
        seconds=RAMP_SECONDS,
        rate=NUM_CHUNKS,
        when_all_open=note,
    )
    spent = proxy.processor_seconds() - spent_before
    return {
        "num_streams": NUM_STREAMS,
        "was_all_open": held[0] > 0,
        "bytes_per_stream": (held[0] - idle_bytes) / NUM_STREAMS,
        "processor_seconds_per_chunk": spent / (NUM_STREAMS * NUM_CHUNKS),
        **asdict(load),
    }


def _litellm(folder: Path, ports: list[int]) -> dict[str, object]:
    try:
        with litellm_proxy(litellm(), folder, ports) as proxy:
            figures = _throughput(folder, proxy, is_loose=True)
            return figures if figures["per_processor_second"] else {"problem": "no right answer"}
    except RivalError as error:
        return {"problem": str(error)}


def _num_lines(proxy: Proxy) -> int:
    return proxy.log.read_bytes().count(b"\n") if proxy.log.exists() else 0
