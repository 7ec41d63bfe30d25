"""A small plan that has everything renderers must handle: vendors, markets, models, dtypes."""

from planner.fleet.fleet_plan import FleetPlan

CHAT = "chat"
SPOT = "2xH100-SXM/spot/aws-us-east-1"
L4 = "L4/on-demand/gcp-us-central1"

_WORKLOAD = {
    "input_tokens_up_to": [512, 4096],
    "output_tokens_up_to": [256],
    "rates_requests_per_second": [[6.0], [2.0]],
}
_SMALL_WORKLOAD = {
    "input_tokens_up_to": [1024],
    "output_tokens_up_to": [128],
    "rates_requests_per_second": [[0.5]],
}


def small_plan(**changes: object) -> FleetPlan:
    """Return the plan; `changes` replace whole fields of the document."""
    return FleetPlan.model_validate(plan_content() | changes)


def plan_content() -> dict[str, object]:
    """Return the plan as it stands in a file."""
    return {
        "schema_version": 2,
        "kind": "fleet-plan",
        "status": "optimal",
        "cost_usd_per_hour": 30.59,
        "program_cost_usd_per_hour": 30.59,
        "bound_usd_per_hour": 30.59,
        "gap_fraction": 0.0,
        "survives": ["one-market"],
        "solver": "HiGHS",
        "solver_fallbacks": 0,
        "solve_seconds": 0.5,
        "notes": ["3 requests longer than the grid count as its largest size"],
        "models": [
            _model(CHAT, "Qwen/Qwen2.5-7B-Instruct", {"ttft_seconds": 0.5, "tpot_seconds": 0.05}),
            _model("code", "Qwen/Qwen2.5-Coder-32B-Instruct", None),
            _model("tiny", "Qwen/Qwen2.5-0.5B-Instruct", None),
        ],
        "replicas": _all_replicas(),
        "weights": [
            _weights(CHAT, 0, 512, 6.0, {L4: 0.75, SPOT: 0.25}),
            _weights(CHAT, 512, 4096, 2.0, {SPOT: 1.0}),
            _weights("code", 0, 1024, 0.5, {"MI300X/on-demand/azure-eastus": 1.0}),
            _weights("tiny", 0, 1024, 0.5, {"xeon/owned": 1.0}),
        ],
        "market_losses": [
            {
                "market": "spot",
                "weights": [
                    _weights(CHAT, 0, 512, 6.0, {L4: 1.0}),
                    _weights(CHAT, 512, 4096, 2.0, {L4: 1.0}),
                    _weights("code", 0, 1024, 0.5, {"MI300X/on-demand/azure-eastus": 1.0}),
                    _weights("tiny", 0, 1024, 0.5, {"xeon/owned": 1.0}),
                ],
            }
        ],
    }


def _all_replicas() -> list[dict[str, object]]:
    return [
        _replicas(CHAT, L4, "L4", 2, 0.71, load=1.2, region="gcp-us-central1")
        | {"kv_dtype": "bfloat16", "weight_dtype": "bfloat16", "max_context_tokens": 8192},
        _replicas(CHAT, SPOT, "H100-SXM", 1, 24.58, load=0.6, region="aws-us-east-1")
        | {
            "tensor_parallel": 2,
            "market": "spot",
            "weight_dtype": "bfloat16",
            "kv_dtype": "fp8",
            "max_context_tokens": 32768,
            "memory_fraction": 0.92,
            "max_sequences": 384,
            "max_batched_tokens": 8192,
            "engine_arguments": ["--enable-prefix-caching"],
        },
        _replicas("code", "MI300X/on-demand/azure-eastus", "MI300X", 1, 4.59, load=0.7)
        | {
            "weight_dtype": "fp8",
            "kv_dtype": "bfloat16",
            "max_context_tokens": 32768,
            "region": "azure-eastus",
        },
        _replicas("tiny", "xeon/owned", "cpu-xeon-8480", 1, 0.0, load=0.4)
        | {"market": "owned", "weight_dtype": "bfloat16", "max_sequences": 16},
    ]


def _model(name: str, source: str, slo: object) -> dict[str, object]:
    workload = _WORKLOAD if name == CHAT else _SMALL_WORKLOAD
    return {"name": name, "source": source, "slo": slo, "workload": workload}


def _replicas(
    model: str,
    offer: str,
    gpu: str,
    replicas: int,
    price: float,
    *,
    load: float,
    region: str | None = None,
) -> dict[str, object]:
    return {
        "model": model,
        "offer": offer,
        "gpu": gpu,
        "region": region,
        "replicas": replicas,
        "price_usd_per_hour": price,
        "cost_usd_per_hour": price * replicas,
        "load_replicas": load,
        "utilisation_fraction": load / replicas,
        "utilisation_limit_fraction": 0.8,
        "speed": "modelled",
    }


def _weights(
    model: str, over: int, up_to: int, rate: float, shares: dict[str, float]
) -> dict[str, object]:
    return {
        "model": model,
        "input_tokens_over": over,
        "input_tokens_up_to": up_to,
        "rate_requests_per_second": rate,
        "shares_fraction": shares,
        "weights": {offer: round(1000 * share) for offer, share in shares.items()},
    }
