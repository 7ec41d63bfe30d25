"""The plan of a fleet: the document that renderers, the simulator, the router and serving read."""

from collections.abc import Iterable, Set
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.fleet.requests_config import MixRequests
from planner.fleet.verification import VerificationReport
from planner.hardware.catalogue import Market
from planner.hardware.coefficients import Coefficients
from planner.hardware.gpu_spec import DType, GpuSpec
from planner.hardware.model_spec import ModelSpec
from planner.units import Count, ModelSource, Name, Number, Tokens, Utilisation
from planner.workloads.slo import Slo
from planner.workloads.workload import Workload

SCHEMA_VERSION: Literal[2] = 2
"""Version of the plan's layout; a plan of another version is refused."""

LATENCY_NOT_VERIFIED = "latency not verified"
"""What a plan says of its latency while nothing has replayed it."""

WEIGHT_SUM = 1000
"""What the integer weights of one input range sum to."""

SHARES_TOLERANCE = 1e-6
"""How far shares may sum to other than 1: the rounding of a file."""

Amount = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Replicas = Annotated[int, Field(ge=1)]
Weight = Annotated[int, Field(ge=0, le=WEIGHT_SUM)]


class PlannedModel(StrictModel):
    """A served model and what is promised for it."""

    name: Name
    """Name that requests ask for."""
    source: ModelSource | None
    """Hub id or folder of the weights; null: every throughput was measured, none is known."""
    slo: Slo | None
    """Latency target; null: none was stated."""
    workload: Workload
    """Planned rate of each request size."""
    mix: MixRequests | None = None
    """The mix that the workload was drawn from; null: a grid or a trace was planned for."""


class FittedSpeed(StrictModel):
    """Step times fitted to a profile, and the limits it observed; `fitted_steps.py` has the form."""

    knots: Annotated[tuple[Replicas, ...], Field(min_length=2)]
    """Decoding sequences at which `base_seconds` is known, rising."""
    base_seconds: tuple[Amount, ...]
    """Of a step with so many decoding sequences, contexts apart; above 0 and never falling."""
    decode_context_token_seconds: Amount
    """For each token of their contexts."""
    prefill_token_seconds: Amount
    """For each prompt token."""
    prefill_pair_seconds: Amount
    """For each query-key pair of the prompts."""
    mixed_seconds: Amount = 0.0
    """Of a step that both decodes and computes prompts, beyond what they take apart."""
    request_overhead_seconds: Amount = 0.0
    """Beside the steps, until the client has the first token."""
    kv_capacity_tokens: Tokens
    """Tokens whose keys and values fit one replica."""
    max_context_tokens: Tokens
    """Longest sequence."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if any(first >= second for first, second in pairwise(self.knots)):
            raise ValueError(f"knots are {self.knots}, which do not rise; plan again")
        if len(self.base_seconds) != len(self.knots):
            raise ValueError(
                f"base_seconds holds {len(self.base_seconds)} numbers for {len(self.knots)} knots; "
                "plan again"
            )
        steps = (0.0, *self.base_seconds)
        if steps[1] == 0 or any(first > second for first, second in pairwise(steps)):
            raise ValueError(
                f"base_seconds are {self.base_seconds}, not above 0 and rising; plan again"
            )
        return self


class PlannedReplicas(StrictModel):
    """The replicas of one offer that serve one model; what has none is left out."""

    model: Name
    """Served model."""
    offer: Name
    """Unique name of the offer, such as `2xL4/spot/aws-us-east-1`."""
    gpu: Name | None
    """Device, as the catalogue calls it; null: the offer names none."""
    tensor_parallel: Replicas = 1
    """Devices that share every layer."""
    pipeline_parallel: Replicas = 1
    """Groups of layers, one after another."""
    market: Market = "on-demand"
    """How the devices are had."""
    region: Name | None = None
    """Where; null: not stated."""
    replicas: Replicas
    """How many to run."""
    max_replicas: Count | None = None
    """Cap of the offer alone; null: none."""
    price_usd_per_hour: Amount
    """Price of one replica."""
    cost_usd_per_hour: Amount
    """Price of all of them."""
    load_replicas: Amount
    """Planned load, in fully loaded replicas."""
    utilisation_fraction: Amount
    """Planned load of each replica."""
    utilisation_limit_fraction: Utilisation
    """Limit the load was planned under."""
    speed: Literal["stated", "profile", "modelled"]
    """Where the throughput comes from: the planned file, a measured profile, the model."""
    coefficients: Name | None = None
    """Set of coefficients of a modelled speed."""
    fitted: FittedSpeed | None = None
    """A profiled speed step by step; null: the profile tells throughputs alone, or there is none."""
    weight_dtype: DType | None = None
    """Format of the weights; null: not stated."""
    kv_dtype: DType | None = None
    """Format of the cache; null: not stated."""
    max_context_tokens: Tokens | None = None
    """Longest sequence to serve: as asked, at most the model's own and what its cache holds; null:
    none of them is known, so the engine takes its default."""
    memory_fraction: Utilisation = 0.9
    """Share of the memory that the engine may use."""
    max_sequences: Tokens = 256
    """Sequences that run at once."""
    max_batched_tokens: Tokens = 2048
    """Tokens of one step."""
    engine_arguments: tuple[str, ...] = ()
    """Further arguments for the engine of each replica, word by word."""

    @model_validator(mode="after")
    def _has_room_for_a_step(self) -> Self:
        if self.max_batched_tokens < self.max_sequences:
            raise ValueError(
                f"{self.offer}: max_batched_tokens is {self.max_batched_tokens}, below the "
                f"{self.max_sequences} of max_sequences; raise it"
            )
        return self

    @property
    def devices_per_replica(self) -> int:
        """Devices of one replica."""
        return self.tensor_parallel * self.pipeline_parallel


class PlannedWeights(StrictModel):
    """Where the requests of one model and input range go: what the router reads."""

    model: Name
    """Requested model."""
    input_tokens_over: Annotated[int, Field(ge=0)]
    """The range holds inputs longer than this,"""
    input_tokens_up_to: Tokens
    """and up to this. Ranges leave no gap: one without requests belongs to the next. Longer inputs
    than any range's go where those of the last go."""
    output_tokens_over: Annotated[int, Field(ge=0)] | None = None
    """Set in the oracle form alone, which no router can follow: outputs longer than this,"""
    output_tokens_up_to: Tokens | None = None
    """and up to this."""
    rate_requests_per_second: Amount
    """Planned rate."""
    shares_fraction: Annotated[dict[Name, Share], Field(min_length=1)]
    """Offer to its share of these requests, summing to 1."""
    weights: Annotated[dict[Name, Weight], Field(min_length=1)]
    """The same rounded by largest remainder to integers that sum to 1000; no share becomes 0."""


class MarketLoss(StrictModel):
    """Where requests go while a market is lost."""

    market: Market
    """The lost one."""
    weights: tuple[PlannedWeights, ...]
    """As in the plan."""


class SingleTypeFleet(StrictModel):
    """The fleet that one offer alone would make, for comparison."""

    model: Name
    """Served model."""
    offer: Name
    """Name of the offer."""
    replicas: int | None
    """Replicas it takes; null: none is known."""
    cost_usd_per_hour: Amount | None
    """What they cost; null: none is known."""
    obstacle: str
    """Why none is known; empty where one is."""
    is_proven: bool = True
    """Whether by proof none is cheaper, or none exists; false: time ran out before."""


class FleetPlan(StrictModel):
    """How many replicas of which offer, which share of which request size, at what cost."""

    schema_version: Literal[2] = SCHEMA_VERSION
    """Version of this document's layout."""
    kind: Literal["fleet-plan"] = "fleet-plan"
    """What this document is."""
    status: Literal["optimal", "feasible"]
    """`optimal`: no fleet is cheaper, by proof. `feasible`: one may be, by the gap at most."""
    cost_usd_per_hour: Amount
    """Price of the fleet."""
    bound_usd_per_hour: Amount
    """No fleet that serves the workload within the limits costs less."""
    gap_fraction: Share
    """(cost - bound) / cost."""
    program_cost_usd_per_hour: Amount
    """Price of the first program's fleet, before verification tightened or saved anything."""
    oracle_cost_usd_per_hour: Amount | None = None
    """Price of that program's fleet if shares could follow output lengths; null: not computed."""
    oracle_bound_usd_per_hour: Amount | None = None
    """No such fleet costs less; null: not computed."""
    oracle_shares: bool = False
    """Whether shares depend on output lengths, which no router knows."""
    survives: tuple[Literal["one-replica", "one-market"], ...] = ()
    """Losses after which everything is still served."""
    solver: str
    """Solver that found the counts."""
    solver_fallbacks: Count
    """How often a solver broke down and the next one answered."""
    solve_seconds: Amount
    """Time from the numbers to the plan, building the programs included."""
    verification: VerificationReport | None = None
    """Latencies replayed on this plan; null: none were."""
    latency_verified: bool = False
    """Whether every target was met when requests were replayed on this plan."""
    latency: str = LATENCY_NOT_VERIFIED
    """The state of the latency in words."""
    notes: tuple[str, ...] = ()
    """What a reader must know: extrapolated requests, estimated numbers, rounding."""
    models: tuple[PlannedModel, ...]
    """Served models, in the file's order."""
    replicas: tuple[PlannedReplicas, ...]
    """By model, then offer, in the file's order."""
    weights: tuple[PlannedWeights, ...]
    """By model, then input range, rising."""
    market_losses: tuple[MarketLoss, ...] = ()
    """Weights for the loss of each market, where the plan survives it."""
    single_type: tuple[SingleTypeFleet, ...] = ()
    """What each offer alone would cost, by model, then in the file's order."""
    gpus: tuple[GpuSpec, ...] = ()
    """The devices of the replicas, as the catalogues describe them."""
    model_specs: dict[Name, ModelSpec] = Field(default_factory=dict)
    """Sizes of the models that modelled speeds rest on, by `PlannedModel.name`."""
    coefficients: tuple[Coefficients, ...] = ()
    """The sets of coefficients that modelled speeds rest on."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        models = {model.name for model in self.models}
        pools = {(row.model, row.offer) for row in self.replicas}
        if len(models) < len(self.models) or len(pools) < len(self.replicas):
            raise ValueError("a model, or an offer of one, is there twice; plan again")
        for rows in (self.weights, *(loss.weights for loss in self.market_losses)):
            if {row.model for row in rows} != models:
                raise ValueError("weights are not for each model of the plan; plan again")
            for row in rows:
                _check_weights(row, pools)
            if not self.oracle_shares:
                _check_no_gap(rows)
        return self

    @property
    def cheapest_single_types(self) -> tuple[SingleTypeFleet, ...] | None:
        """The cheapest fleet of one type for each model; nothing where some model has none."""
        cheapest = []
        for model in self.models:
            fleets = [
                fleet
                for fleet in self.single_type
                if fleet.model == model.name and fleet.cost_usd_per_hour is not None
            ]
            if not fleets:
                return None
            cheapest.append(min(fleets, key=lambda fleet: fleet.cost_usd_per_hour or 0.0))
        return tuple(cheapest)


def _check_weights(row: PlannedWeights, pools: Set[tuple[str, str]]) -> None:
    for offer in row.shares_fraction.keys() | row.weights.keys():
        if (row.model, offer) not in pools:
            raise ValueError(f"weights of {row.model} name {offer}, which has no replica")
    if sum(row.weights.values()) != WEIGHT_SUM:
        raise ValueError(f"weights of {row.model} do not sum to {WEIGHT_SUM}; plan again")
    total = sum(row.shares_fraction.values())
    if abs(total - 1) > SHARES_TOLERANCE:
        raise ValueError(f"shares of {row.model} sum to {total:g}, not to 1; plan again")


def _check_no_gap(rows: Iterable[PlannedWeights]) -> None:
    ends: dict[str, int] = {}
    for row in rows:
        end = ends.get(row.model, 0)
        if row.input_tokens_over != end or row.input_tokens_up_to <= end:
            raise ValueError(
                f"weights of {row.model} for inputs over {row.input_tokens_over} up to "
                f"{row.input_tokens_up_to} tokens follow {end}; let ranges rise without a gap"
            )
        ends[row.model] = row.input_tokens_up_to
