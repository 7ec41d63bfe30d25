"""Files of `motley plan fleet` as mappings, small enough to plan and replay in a test."""

import copy
import random

import yaml

from planner.fleet.fleet_config import FleetConfig
from planner.fleet.plan import fleet_inputs
from planner.workloads.synthetic import synthetic_trace
from planner.workloads.trace_writer import traffic_lines

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"

SLO = {
    "ttft_seconds": 1.0,
    "ttft_statistic": "p95",
    "tpot_seconds": 0.06,
    "tpot_statistic": "p95",
}

STATED = {
    "schema_version": 2,
    "verification": False,
    "utilisation_limit_fraction": 1.0,
    "models": [
        {
            "name": "m",
            "workload": {
                "input_tokens_up_to": [100, 500],
                "output_tokens_up_to": [100, 500],
                "rates_requests_per_second": [[6, 3], [15, 6]],
            },
        }
    ],
    "offers": [
        {
            "name": "A10G",
            "price_usd_per_hour": 1.01,
            "throughput_requests_per_second": [[2, 1], [5, 2]],
        },
        {
            "name": "A100",
            "price_usd_per_hour": 3.67,
            "throughput_requests_per_second": [[20, 20], [40, 20]],
        },
    ],
}
"""Mélange's example: throughputs are stated, shares follow inputs."""

MODELLED = {
    "schema_version": 2,
    "models": [
        {
            "name": LLAMA,
            "max_context_tokens": 16384,
            "workload": {"mix": "chat", "requests_per_second": 8, "duration_seconds": 300},
            "slo": SLO,
        }
    ],
    "offers": [
        {"gpu": "L4", "region": "aws-us-east-1", "tensor_parallel": [1, 2]},
        {"gpu": "L40S", "region": "aws-us-east-1"},
        {"gpu": "H100-SXM", "region": "aws-us-east-1"},
    ],
}
"""Five minutes of chat on three devices, speeds by the performance model."""


def stated(**changes):
    """Return a copy of `STATED` with these keys changed; None: left out."""
    return _changed(STATED, changes)


def modelled(**changes):
    """Return a copy of `MODELLED` with these keys changed; None: left out."""
    return _changed(MODELLED, changes)


def _changed(content, changes):
    copied = copy.deepcopy(content) | changes
    return {key: value for key, value in copied.items() if value is not None}


def served(name="m", rates=((6, 3), (15, 6)), **fields):
    """Return a served model with a two-by-two grid of rates."""
    grid = {
        "input_tokens_up_to": [100, 500],
        "output_tokens_up_to": [100, 500],
        "rates_requests_per_second": rates,
    }
    return {"name": name, "workload": grid} | fields


def inputs_of(content, folder):
    """Return the looked-up content of a file."""
    return fleet_inputs(FleetConfig.model_validate(content), folder=folder)


def written(content, folder, name="fleet.yaml"):
    """Write a file's content and return its path."""
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def chat_trace(seed=0, *, requests_per_second=8.0, duration_seconds=300.0):
    """Return a trace of the shape of the Azure conversation trace of 2023."""
    return synthetic_trace(
        "chat",
        requests_per_second=requests_per_second,
        duration_seconds=duration_seconds,
        generator=random.Random(seed),
    )


def logged(trace, folder, name="trace.jsonl"):
    """Write a trace as a traffic log and return its path."""
    path = folder / name
    path.write_text("".join(traffic_lines(trace)))
    return path
