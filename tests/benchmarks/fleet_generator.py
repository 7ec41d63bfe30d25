"""Seeded fleet problems of any size: request sizes, offers and models, with caps that admit a plan.

`hardware`: throughputs follow a roofline of real GPUs, prices follow the GPUs with noise.
`scattered`: every (size, offer) throughput is drawn on its own, so that nearly every offer is the best
for some size: far from any real catalogue, and the hardest case for a bound.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from planner.fleet_program.problem import Cap, FleetProblem, ReplicaColumn, Rules, ShareRow

# name, dense TFLOP/s at 16 bit, GB/s, GB, USD an hour on demand
GPUS = (
    ("T4", 65, 300, 16, 0.35),
    ("L4", 121, 300, 24, 0.70),
    ("A10G", 125, 600, 24, 1.00),
    ("4090", 165, 1008, 24, 0.60),
    ("A40", 150, 696, 48, 1.10),
    ("L40S", 362, 864, 48, 1.60),
    ("A100-40", 312, 1555, 40, 2.20),
    ("A100-80", 312, 1935, 80, 3.00),
    ("H100-PCIe", 756, 2000, 80, 4.00),
    ("H100", 989, 3350, 80, 5.50),
    ("H200", 989, 4800, 141, 6.50),
    ("MI300X", 1300, 5300, 192, 5.00),
)
BILLIONS_OF_PARAMETERS = (7, 13, 32, 70, 3)
KV_GB_PER_TOKEN_AND_BILLION = 2e-5
SPOT_PRICE_FRACTION = 0.45
UTILISATION = 0.85
CAP_SLACK = {"loose": (1.0, 3.0), "middling": (0.3, 1.2), "tight": (0.1, 0.5)}


@dataclass(frozen=True, slots=True)
class Shape:
    """How large an instance is and of what kind."""

    replicas: int
    """Roughly how many the cheapest plan takes."""
    inputs: int = 20
    outputs: int = 10
    offers: int = 100
    models: int = 5
    by_output: bool = False
    """The oracle form: a row for each (input, output) size."""
    kind: Literal["hardware", "scattered"] = "hardware"
    caps: Literal["loose", "middling", "tight"] | None = "middling"
    price_noise: float = 0.15
    types: tuple[str, ...] = ()
    """One offer of a single GPU on demand for each; empty: drawn from all GPUs, degrees, markets."""


@dataclass(frozen=True, slots=True)
class _Offer:
    gpu: tuple[str, int, int, int, float]
    gpus: int
    market: str
    region: str
    price: float

    @property
    def name(self) -> str:
        return f"{self.gpus}x{self.gpu[0]}/{self.market}/{self.region}"


def fleet_instance(shape: Shape, *, seed: int, rules: Rules | None = None) -> FleetProblem:
    """Return the instance of a seed; its caps admit a plan, with one replica's loss survived too."""
    rng = np.random.default_rng(seed)
    offers = _offers(shape, rng)
    prices = np.array([offer.price for offer in offers])
    loads = []
    for model in range(shape.models):
        load = _loads(shape, offers, BILLIONS_OF_PARAMETERS[model % 5], prices, rng)
        load = load[np.isfinite(load).any(axis=1)]
        cheapest = _cheapest(load * prices, load)
        wanted = shape.replicas / shape.models * rng.uniform(0.6, 1.4)
        loads.append(load * (wanted * UTILISATION / cheapest.sum()))
    return FleetProblem(
        models=tuple(f"model-{model}" for model in range(shape.models)),
        rows=tuple(
            ShareRow(model, f"model {model}, size {row}")
            for model, load in enumerate(loads)
            for row in range(len(load))
        ),
        columns=tuple(
            ReplicaColumn(
                model=model,
                offer=offer.name,
                price_usd_per_hour=offer.price,
                loads=tuple(float(x) if np.isfinite(x) else None for x in load[:, o]),
                utilisation_limit_fraction=UTILISATION,
                gpus=offer.gpus,
                gpu_type=offer.gpu[0],
                market=offer.market,
                region=offer.region,
                is_spot=offer.market == "spot",
            )
            for model, load in enumerate(loads)
            for o, offer in enumerate(offers)
        ),
        caps=_caps(shape, offers, prices, loads, rng) if shape.caps else (),
        rules=rules or Rules(),
    )


def _offers(shape: Shape, rng: np.random.Generator) -> list[_Offer]:
    every = [
        (gpu, gpus, market, region)
        for gpu in GPUS
        for gpus in (1, 2, 4)
        for market in ("on-demand", "spot")
        for region in ("east", "west")
    ]
    chosen = sorted(rng.permutation(len(every))[: shape.offers])
    if shape.types:
        wanted = [(name, 1, "on-demand", "east") for name in shape.types]
        chosen = [i for i, (gpu, *rest) in enumerate(every) if (gpu[0], *rest) in wanted]
    offers = []
    for gpu, gpus, market, region in (every[index] for index in chosen):
        price = gpu[4] * gpus * np.exp(rng.normal(0, shape.price_noise))
        price *= SPOT_PRICE_FRACTION if market == "spot" else 1.0
        offers.append(_Offer(gpu, gpus, market, region, round(float(price), 3)))
    return offers


def _loads(
    shape: Shape, offers: list[_Offer], billions: int, prices: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    # (rows, offers); infinite: cannot serve. Scaled by the caller.
    inputs = np.geomspace(64, 16000, shape.inputs)[:, None]
    outputs = np.geomspace(16, 2000, shape.outputs)[None, :]
    seconds = np.full((shape.inputs, shape.outputs, len(offers)), np.inf)
    for o, offer in enumerate(offers):
        if shape.kind == "hardware":
            seconds[:, :, o] = _roofline_seconds(offer, billions, inputs, outputs, rng)
        else:
            size = (inputs / 500 + outputs / 100) ** 0.7
            drawn = size * np.exp(rng.normal(0, 0.5, size=size.shape)) / prices[o] ** 0.9
            drawn[rng.random(size.shape) < 0.15] = np.inf
            seconds[:, :, o] = drawn
    centre = rng.uniform(5, 8.5), rng.uniform(4, 6.5)
    rates = rng.gamma(0.7, size=seconds.shape[:2])
    rates *= np.exp(-((np.log(inputs) - centre[0]) ** 2) / 4)
    rates *= np.exp(-((np.log(outputs) - centre[1]) ** 2) / 3)
    rates[~np.isfinite(seconds).any(axis=2)] = 0
    loads = np.where(rates[:, :, None] > 0, rates[:, :, None], 0.0) * np.where(
        np.isfinite(seconds), seconds, 0.0
    )
    loads[(rates[:, :, None] > 0) & ~np.isfinite(seconds)] = np.inf
    loads = loads.reshape(-1, len(offers)) if shape.by_output else loads.sum(axis=1)
    return loads[loads.max(axis=1) > 0]


def _roofline_seconds(
    offer: _Offer, billions: int, inputs: np.ndarray, outputs: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    # Replica seconds a request takes: decoding steps shared by a batch, and its own prefill.
    efficiency = {1: 0.9, 2: 0.85, 4: 0.75}[offer.gpus] * offer.gpus
    _, teraflops, gb_per_second, gb, _ = offer.gpu
    spare_gb = 0.9 * gb * offer.gpus - 2 * billions
    if spare_gb <= 1:
        return np.full(np.broadcast_shapes(inputs.shape, outputs.shape), np.inf)
    kv_gb = (inputs + outputs / 2) * billions * KV_GB_PER_TOKEN_AND_BILLION
    batch = np.minimum(spare_gb / kv_gb, 128)
    step = (2 * billions + batch * kv_gb) / (gb_per_second * efficiency) + 0.004
    prefill = 2 * billions * inputs / (teraflops * efficiency * 0.5 * 1e3)
    seconds = (outputs * step / batch + prefill) * np.exp(rng.normal(0, 0.05, size=step.shape))
    return np.where((batch < 1) | (step > 0.1), np.inf, seconds)


def _cheapest(cost: np.ndarray, load: np.ndarray) -> np.ndarray:
    # Load by offer when every row goes where its cost is least.
    best = np.argmin(cost, axis=1)
    total = np.zeros(load.shape[1])
    np.add.at(total, best, load[np.arange(len(best)), best])
    return total


def _caps(
    shape: Shape,
    offers: list[_Offer],
    prices: np.ndarray,
    loads: list[np.ndarray],
    rng: np.random.Generator,
) -> tuple[Cap, ...]:
    # Wide enough for a hidden plan, made at prices that are off by a quarter.
    gpus = np.array([offer.gpus for offer in offers])
    hidden, wanted = np.zeros(len(offers)), np.zeros(len(offers))
    for load in loads:
        wanted += _cheapest(load * prices, load) / UTILISATION
        off = np.exp(rng.normal(0, 0.25, size=len(offers)))
        used = _cheapest(load * prices * off, load)
        needed = np.ceil(np.maximum(used / UTILISATION, used + 1))
        hidden += np.where(used > 0, needed, 0)
    low, high = CAP_SLACK[shape.caps or "loose"]
    pools: dict[str, list[int]] = {}
    for o, offer in enumerate(offers):
        pools.setdefault(f"{offer.gpu[0]}/{offer.market}/{offer.region}", []).append(o)
    total = float((hidden * gpus).sum())
    limits = {}
    for name, members in pools.items():
        least = float((hidden[members] * gpus[members]).sum())
        cheap = float((wanted[members] * gpus[members]).sum()) * rng.uniform(low, high)
        extra = rng.uniform(0, high - low) * total / len(pools)
        limits[name] = int(np.ceil(max(least, cheap) + extra))
    pools["spot"] = [o for o, offer in enumerate(offers) if offer.market == "spot"]
    least = float((hidden[pools["spot"]] * gpus[pools["spot"]]).sum())
    limits["spot"] = int(max(least, total * (1.5 if shape.caps == "loose" else 0.6)))
    return tuple(
        Cap(
            name,
            limits[name],
            tuple(model * len(offers) + o for model in range(shape.models) for o in members),
        )
        for name, members in pools.items()
    )
