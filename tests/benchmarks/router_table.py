"""The table of the router's benchmark: each figure beside its bar."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_P50_SECONDS = 1e-3
MOST_P99_SECONDS = 5e-3
LEAST_PER_PROCESSOR_SECOND = 2000.0
LEAST_TIMES_LITELLM = 5.0


def show(figures: Mapping[str, Any]) -> None:
    """Print the table."""
    table = Table(title="router: one worker, 4 mock replicas, 1 kB prompts")
    for name in ("figure", "measured", "bar", "met"):
        table.add_column(name)
    for row in rows(figures):
        table.add_row(*row)
    Console().print(table)


def rows(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return name, figure, bar and whether it is met, one row a figure."""
    latency, ours, streams = figures["latency"], figures["motley"], figures["streams"]
    p50, p99 = latency["added_p50_seconds"], latency["added_p99_seconds"]
    rate = ours["per_processor_second"]
    is_clean = streams["num_errors"] == 0 and streams["was_all_open"]
    return [
        ("mock alone, requests/s", f"{figures['mock_requests_per_second']:,.0f}", "", ""),
        (
            "added latency p50 at 500/s",
            f"{p50 * 1e3:.2f} ms",
            "1 ms",
            _met(p50 <= MOST_P50_SECONDS),
        ),
        (
            "added latency p99 at 500/s",
            f"{p99 * 1e3:.2f} ms",
            "5 ms",
            _met(p99 <= MOST_P99_SECONDS),
        ),
        (
            "requests a processor second",
            f"{rate:,.0f}",
            f"{LEAST_PER_PROCESSOR_SECOND:,.0f}",
            _met(rate >= LEAST_PER_PROCESSOR_SECOND and not ours["num_errors"]),
        ),
        _against_litellm(rate, figures["litellm"]),
        (
            f"{streams['num_streams']} streams x 50 chunks at once, errors",
            str(streams["num_errors"]),
            "0",
            _met(is_clean),
        ),
        (
            "processor time a streamed chunk",
            f"{streams['processor_seconds_per_chunk'] * 1e6:.0f} us",
            "",
            "",
        ),
        ("memory an idle stream", f"{streams['bytes_per_stream'] / 1024:.0f} KiB", "", ""),
    ]


def _against_litellm(rate: float, rival: Mapping[str, Any]) -> tuple[str, str, str, str]:
    name = "times LiteLLM's requests a processor second"
    if "problem" in rival:
        return (name, f"not measured: {rival['problem']}", "5", "no")
    theirs = rival["per_processor_second"]
    is_met = rate >= LEAST_TIMES_LITELLM * theirs and not rival["num_errors"]
    return (name, f"{rate / theirs:.1f} (LiteLLM {theirs:,.0f})", "5", _met(is_met))


def _met(is_met: bool) -> str:
    return "yes" if is_met else "no"
