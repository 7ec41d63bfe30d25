"""The numbers of a fleet problem, without files: models, rows, columns, caps and rules.

A *row* is the unit for which shares are chosen: all requests of one model that the router cannot
tell apart. By default that is an input size, whatever its outputs; in the oracle form it is an
(input, output) size. A *column* is one offer used for one model.

    load[r,o] = sum over the sizes z in row r of rate[z] / T[o,z]

is how many replicas of column o, each at full load, the whole row occupies; None where some size of
the row cannot be served by the column at all.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

MOST_MARKETS = 6
"""Most markets for which a plan may be asked to survive the loss of any one."""


@dataclass(frozen=True, slots=True)
class ShareRow:
    """Requests of one model that share their shares."""

    model: int
    """Index into the problem's models."""
    name: str
    """For messages, such as `input 1-128 tokens`."""
    rate_requests_per_second: float = 0.0
    """For messages only; the loads carry the rate."""


@dataclass(frozen=True, slots=True)
class ReplicaColumn:
    """One offer used for one model."""

    model: int
    offer: str
    price_usd_per_hour: float
    """Price of one replica; 0 where it is owned."""
    loads: tuple[float | None, ...]
    """Replicas at full load by row of the column's model, in the rows' order; None: cannot serve."""
    utilisation_limit_fraction: float = 1.0
    """Highest planned load of a replica, in (0, 1]."""
    most_load_fraction: float = math.inf
    """Load beyond which it was measured not to keep pace; bounds what a replay may allow above 1."""
    gpus: int = 1
    """GPUs of one replica."""
    gpu_type: str = ""
    """Groups offers for comparison with fleets of a single type; empty: the offer itself."""
    market: str = ""
    region: str = ""
    is_spot: bool = False
    current_replicas: int | None = None
    """Replicas in the current plan; None: there is none, so the change is not bounded."""
    min_replicas: int = 0
    """Fewest replicas, needed or not."""


@dataclass(frozen=True, slots=True)
class Cap:
    """At most so many GPUs (or replicas) of some columns together, whatever their model."""

    name: str
    """For messages, such as `pool H100/spot/us-east`."""
    limit: int
    columns: tuple[int, ...]
    unit: Literal["GPUs", "replicas"] = "GPUs"

    def use_of(self, column: ReplicaColumn) -> int:
        """Return what one replica of the column takes of the cap."""
        return column.gpus if self.unit == "GPUs" else 1


@dataclass(frozen=True, slots=True)
class Rules:
    """What a plan must hold beyond serving everything; the defaults ask nothing."""

    budget_usd_per_hour: float | None = None
    spot_fraction_limit: float | None = None
    """Highest share of any row on spot offers, in normal operation."""
    min_replicas_used: int = 0
    """Fewest replicas of a (model, offer) that is used at all."""
    min_replicas_of_model: tuple[int, ...] = ()
    """Fewest replicas by model; empty: none asked."""
    max_change_replicas: int | None = None
    """Largest difference of any column's count from its current replicas."""
    survive_one_replica: bool = False
    """With shares unchanged, n - 1 replicas of every column carry its load at utilisation 1."""
    survive_one_market: bool = False
    """With shares of its own, the fleet without any one market serves all at utilisation 1."""


@dataclass(frozen=True, slots=True)
class FleetProblem:
    """Rows to serve, columns to serve them, and the rules; checked when made."""

    models: tuple[str, ...]
    rows: tuple[ShareRow, ...]
    columns: tuple[ReplicaColumn, ...]
    caps: tuple[Cap, ...] = ()
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        """Check indices, lengths and ranges.

        Raises:
            ValueError: Naming what is wrong.
        """
        for row in self.rows:
            _demand(0 <= row.model < len(self.models), f"{row.name}: no model {row.model}")
        sizes = [len(self.rows_of(model)) for model in range(len(self.models))]
        for column in self.columns:
            _demand(0 <= column.model < len(self.models), f"{column.offer}: no such model")
            _check_column(column, sizes[column.model])
        names = [(column.model, column.offer) for column in self.columns]
        _demand(len(set(names)) == len(names), "an offer stands twice for one model; rename it")
        for cap in self.caps:
            inside = all(0 <= column < len(self.columns) for column in cap.columns)
            _demand(
                inside and len(set(cap.columns)) == len(cap.columns), f"{cap.name}: bad columns"
            )
            _demand(cap.limit >= 0, f"{cap.name}: limit {cap.limit} is negative")
        _check_rules(self)

    def rows_of(self, model: int) -> tuple[int, ...]:
        """Return the indices of the model's rows."""
        return tuple(r for r, row in enumerate(self.rows) if row.model == model)

    def columns_of(self, model: int) -> tuple[int, ...]:
        """Return the indices of the model's columns."""
        return tuple(o for o, column in enumerate(self.columns) if column.model == model)

    def markets(self) -> tuple[str, ...]:
        """Return the names of all markets, sorted."""
        return tuple(sorted({column.market for column in self.columns}))


def _check_column(column: ReplicaColumn, num_rows: int) -> None:
    name = column.offer
    _demand(
        len(column.loads) == num_rows,
        f"{name} has {len(column.loads)} loads, its model {num_rows} rows; give one for each",
    )
    price = column.price_usd_per_hour
    _demand(math.isfinite(price) and price >= 0, f"{name}: price {price} is not 0 or above")
    limit = column.utilisation_limit_fraction
    _demand(0 < limit <= 1, f"{name}: utilisation limit {limit} is not in (0, 1]")
    most = column.most_load_fraction
    _demand(most > 0, f"{name}: most load {most} is not above 0")
    _demand(column.gpus >= 1, f"{name}: {column.gpus} GPUs; give at least 1")
    _demand((column.current_replicas or 0) >= 0, f"{name}: current replicas are negative")
    _demand(column.min_replicas >= 0, f"{name}: min_replicas is negative")
    for load in column.loads:
        fine = load is None or (math.isfinite(load) and load > 0)
        _demand(fine, f"{name}: load {load} is not above 0; leave out rows without requests")


def _check_rules(problem: FleetProblem) -> None:
    rules = problem.rules
    budget, spot = rules.budget_usd_per_hour, rules.spot_fraction_limit
    _demand(budget is None or budget >= 0, f"budget {budget} is not 0 or above")
    _demand(spot is None or 0 <= spot <= 1, f"spot limit {spot} is not in [0, 1]")
    _demand(rules.min_replicas_used >= 0, "min_replicas_used is negative")
    _demand((rules.max_change_replicas or 0) >= 0, "max_change_replicas is negative")
    minima = rules.min_replicas_of_model
    _demand(
        len(minima) in (0, len(problem.models)) and all(least >= 0 for least in minima),
        f"min_replicas_of_model {minima} is not one count, 0 or above, for each model",
    )
    num_markets = len(problem.markets())
    _demand(
        not rules.survive_one_market or num_markets <= MOST_MARKETS,
        f"{num_markets} markets to survive; at most {MOST_MARKETS} can be planned for",
    )


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
