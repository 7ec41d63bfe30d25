"""The Melange paper's question with our model: what the best mix saves against the best single type.

Llama-2-7B on L4, A10G, A100-80GB and H100 at the paper's prices, mean TPOT of 120 and 40 ms, rates of
1 to 32 requests a second, no headroom, as there. Three kinds of traffic stand for its data sets: short
(Arena), long (PubMed) and 80 % short with 20 % long. Their histograms are log-normal with medians and
spreads of our own within the model's 4,096 tokens, since the paper prints neither tables nor code for
its own: expect the paper's pattern, not its figures.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from planner.fleet.fleet_config import FleetConfig, ServedModel
from planner.fleet.offers import Offer
from planner.fleet.plan import plan_fleet
from planner.hardware.catalogue import Catalogue, built_in_catalogue
from planner.hardware.coefficients import built_in_coefficients
from planner.hardware.find_model import find_model
from planner.speed.replica_design import ReplicaDesign
from planner.speed.sustained_rate import LatencyLimits, throughput_table
from planner.units import Throughputs
from planner.workloads.workload import Workload

MODEL = "meta-llama/Llama-2-7b-hf"
REGION = "melange-paper"
INPUT_ENDS = (25, 50, 100, 250, 500, 1000, 1500, 2000, 2500, 3000)
OUTPUT_ENDS = (25, 50, 100, 250, 500, 1000)
TPOT_SECONDS = (0.12, 0.04)
RATES = (1, 2, 4, 8, 16, 32)
Histogram = tuple[tuple[float, ...], ...]


def run() -> list[dict[str, object]]:
    """Plan every traffic, limit and rate; print the table."""
    table = Table(title="cheapest mix against the cheapest single type, USD an hour")
    for heading in (
        "traffic",
        "TPOT s",
        "rate",
        "mix",
        "cost",
        "best single type",
        "cost",
        "saving",
    ):
        table.add_column(heading)
    figures = []
    for traffic, histogram in TRAFFIC.items():
        for tpot_seconds in TPOT_SECONDS:
            throughputs = throughputs_of(tpot_seconds)
            for rate in RATES:
                figure = compare(histogram, rate, throughputs)
                figures.append({"traffic": traffic, "tpot_seconds": tpot_seconds, **figure})
                table.add_row(traffic, f"{tpot_seconds:g}", *map(str, figure.values()))
    Console().print(table)
    return figures


def compare(
    histogram: Histogram, rate: float, throughputs: dict[str, Throughputs]
) -> dict[str, object]:
    """Return the cheapest mix and the cheapest single type at this rate."""
    workload = Workload(
        input_tokens_up_to=INPUT_ENDS,
        output_tokens_up_to=OUTPUT_ENDS,
        histogram_fraction=histogram,
        requests_per_second=rate,
    )
    config = FleetConfig(
        schema_version=2,
        models=(ServedModel(name=MODEL, workload=workload),),
        shares="oracle",  # The paper's shares follow outputs too.
        offers=tuple(
            Offer(
                name=price.gpu,
                price_usd_per_hour=price.usd_per_hour,
                throughput_requests_per_second=throughputs[price.gpu],
            )
            for price in _CATALOGUE.prices
            if price.region == REGION
        ),
        utilisation_limit_fraction=1.0,
        verification=None,
    )
    plan = plan_fleet(config).plan
    assert plan is not None
    singles = [fleet for fleet in plan.single_type if fleet.cost_usd_per_hour is not None]
    best = min(singles, key=lambda fleet: fleet.cost_usd_per_hour)
    return {
        "rate": rate,
        "mix": " + ".join(f"{row.replicas} {row.offer}" for row in plan.replicas),
        "cost": round(plan.cost_usd_per_hour, 3),
        "single": f"{best.replicas} {best.offer}",
        "single_cost": round(best.cost_usd_per_hour, 3),
        "saving_fraction": round(1 - plan.cost_usd_per_hour / best.cost_usd_per_hour, 3),
    }


def throughputs_of(tpot_seconds: float) -> dict[str, Throughputs]:
    """Return, for each device, the rate of every size at its upper ends."""
    model = find_model(MODEL, _CATALOGUE)
    sizes = [(inputs, outputs) for inputs in INPUT_ENDS for outputs in OUTPUT_ENDS]
    tables = {}
    for price in _CATALOGUE.prices:
        if price.region != REGION:
            continue
        design = ReplicaDesign(
            _CATALOGUE.gpu(price.gpu), model, weight_dtype="float16", kv_dtype="float16"
        )
        limits = LatencyLimits(tpot_seconds=tpot_seconds)
        rates = throughput_table(design, built_in_coefficients(), sizes, limits=limits)
        flat = [rate.requests_per_second for rate in rates]
        columns = len(OUTPUT_ENDS)
        tables[price.gpu] = tuple(
            tuple(flat[start : start + columns]) for start in range(0, len(flat), columns)
        )
    return tables


def log_normal(ends: Sequence[int], median: float, spread: float) -> list[float]:
    """Return the share of each range of lengths; what lies beyond the last end counts there."""
    below = [0.0]
    below += [0.5 * (1 + math.erf(math.log(end / median) / spread / math.sqrt(2))) for end in ends]
    below[-1] = 1.0
    return [upper - lower for lower, upper in pairwise(below)]


def _independent(inputs: list[float], outputs: list[float]) -> Histogram:
    return tuple(tuple(row * column for column in outputs) for row in inputs)


def _blend(first: Histogram, second: Histogram, share_of_first: float) -> Histogram:
    return tuple(
        tuple(share_of_first * a + (1 - share_of_first) * b for a, b in zip(*rows, strict=True))
        for rows in zip(first, second, strict=True)
    )


_CATALOGUE: Catalogue = built_in_catalogue()
_SHORT = _independent(log_normal(INPUT_ENDS, 60, 1.2), log_normal(OUTPUT_ENDS, 150, 0.9))
_LONG = _independent(log_normal(INPUT_ENDS, 2000, 0.4), log_normal(OUTPUT_ENDS, 250, 0.4))
TRAFFIC = {"short": _SHORT, "long": _LONG, "mixed": _blend(_SHORT, _LONG, 0.8)}
