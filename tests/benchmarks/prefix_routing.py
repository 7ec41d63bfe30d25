"""Prefix-aware routing against round robin on loads that share prefixes, on emulated replicas.

Eight L4-class replicas of an 8B model in virtual time (`tests/emulated_replicas.py`): 42,000 tokens of
KV memory each, so that no replica holds every prefix. Three loads: system prompts shared by the users
of 128 applications (popular ones more often), conversations of eight turns, and prompts that share
nothing. Throughput is measured with 128 requests at a time; time to the first token at 80 % of the rate
round robin reached on that load, where all policies get the same arrivals. The router's own code
chooses, from the text; everything but virtual time is what a request meets in `motley route`.
"""

import random
import statistics
from collections.abc import Callable
from dataclasses import asdict

from emulated_replicas import Figures, Hardware, Request, run_fleet, text_of
from rich.console import Console
from rich.table import Table

from router.policy_config import (
    BoundedLoadConfig,
    LeastOutstandingConfig,
    PolicyConfig,
    PowerOfTwoConfig,
    PrefixAwareConfig,
    RoundRobinConfig,
)

L4 = Hardware(kv_tokens=42_000, bytes_per_second=0.24e12, flops_per_second=60e12)
"""0.8 of the bandwidth and 0.5 of the dense bf16 rate on the data sheet."""
NUM_REPLICAS = 8
CONCURRENCY = 128
RATE_FRACTION = 0.8
SEEDS = (1, 2, 3)
LEAST_THROUGHPUT_RATIO, LEAST_HIT_RATIO = 1.9, 3.0

POLICIES: tuple[PolicyConfig, ...] = (
    RoundRobinConfig(kind="round_robin"),
    LeastOutstandingConfig(kind="least_outstanding"),
    PowerOfTwoConfig(kind="power_of_two"),
    BoundedLoadConfig(),
    PrefixAwareConfig(),
)


def shared_prompts(seed: int) -> list[Request]:
    """Return 2,000 questions of 128 tokens under 128 system prompts of 2,048 (Zipf, exponent 0.5)."""
    rng = random.Random(seed)
    popularity = [(rank + 1) ** -0.5 for rank in range(128)]
    groups = rng.choices(range(128), weights=popularity, k=2000)
    return [
        Request(text_of(2048, ("system", group)) + text_of(128, ("question", seed, place)), 64)
        for place, group in enumerate(groups)
    ]


def conversations(seed: int) -> list[Request]:
    """Return 250 conversations of eight turns, interleaved; each turn adds 256 tokens to the input."""
    rng = random.Random(seed)
    turns = [talk for talk in range(250) for _ in range(8)]
    rng.shuffle(turns)
    so_far: dict[int, str] = {}
    requests = []
    for place, talk in enumerate(turns):
        so_far[talk] = so_far.get(talk, "") + text_of(256, ("turn", seed, place))
        requests.append(Request(so_far[talk], 64))
    return requests


def nothing_shared(seed: int) -> list[Request]:
    """Return 1,000 prompts of 64 to 2,048 tokens that have nothing in common."""
    rng = random.Random(seed)
    return [
        Request(text_of(rng.randrange(64, 2048), ("alone", seed, place)), rng.randrange(16, 128))
        for place in range(1000)
    ]


LOADS: dict[str, Callable[[int], list[Request]]] = {
    "shared system prompts": shared_prompts,
    "conversations": conversations,
    "nothing shared": nothing_shared,
}


def run() -> dict[str, object]:
    """Measure every policy on every load, and print the tables and whether the bar is met."""
    figures = {name: _measured(load) for name, load in LOADS.items()}
    for name, rows in figures.items():
        _print(name, rows)
    shared = figures["shared system prompts"]
    ours, base = shared["prefix_aware"], shared["round_robin"]
    throughput_ratio = ours["requests_per_second"] / base["requests_per_second"]
    hit_ratio = ours["cached_fraction"] / base["cached_fraction"]
    is_met = throughput_ratio >= LEAST_THROUGHPUT_RATIO or hit_ratio >= LEAST_HIT_RATIO
    print(
        f"prefix-aware against round robin: {throughput_ratio:.2f} x throughput (bar "
        f"{LEAST_THROUGHPUT_RATIO}), {hit_ratio:.2f} x cached share (bar {LEAST_HIT_RATIO}): "
        f"{'met' if is_met else 'NOT met'}"
    )
    return {
        "loads": figures,
        "throughput_ratio": throughput_ratio,
        "hit_ratio": hit_ratio,
        "is_met": is_met,
    }


def _measured(load: Callable[[int], list[Request]]) -> dict[str, dict[str, float]]:
    """Return the mean over the seeds of every policy's figures on one load."""
    fleet = [L4] * NUM_REPLICAS
    full = {
        policy.kind: [
            run_fleet(load(seed), policy, fleet, concurrency=CONCURRENCY, seed=seed)
            for seed in SEEDS
        ]
        for policy in POLICIES
    }
    rate = RATE_FRACTION * _mean(full["round_robin"], "requests_per_second")
    rows = {}
    for policy in POLICIES:
        paced = [
            run_fleet(load(seed), policy, fleet, requests_per_second=rate, seed=seed)
            for seed in SEEDS
        ]
        rows[policy.kind] = {
            "requests_per_second": _mean(full[policy.kind], "requests_per_second"),
            "cached_fraction": _mean(full[policy.kind], "cached_fraction"),
            "load_variation": _mean(full[policy.kind], "load_variation"),
            "paced_requests_per_second": rate,
            "paced_cached_fraction": _mean(paced, "cached_fraction"),
            "mean_ttft_seconds": _mean(paced, "mean_ttft_seconds"),
            "p95_ttft_seconds": _mean(paced, "p95_ttft_seconds"),
        }
    return rows


def _mean(runs: list[Figures], name: str) -> float:
    return statistics.fmean(asdict(each)[name] for each in runs)


def _print(name: str, rows: dict[str, dict[str, float]]) -> None:
    base = rows["round_robin"]
    rate = base["paced_requests_per_second"]
    table = Table(
        title=f"{name}: {NUM_REPLICAS} replicas, virtual time, mean of {len(SEEDS)} seeds"
    )
    for column in ("policy", "requests/s", "x", "cached", "load CoV"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for column in (f"mean TTFT at {rate:.1f}/s", "p95", "cached"):
        table.add_column(column, justify="right")
    for kind, row in rows.items():
        table.add_row(
            kind,
            f"{row['requests_per_second']:.2f}",
            f"{row['requests_per_second'] / base['requests_per_second']:.2f}",
            f"{row['cached_fraction']:.1%}",
            f"{row['load_variation']:.3f}",
            f"{row['mean_ttft_seconds']:.3f} s",
            f"{row['p95_ttft_seconds']:.3f} s",
            f"{row['paced_cached_fraction']:.1%}",
        )
    Console(width=120).print(table)
