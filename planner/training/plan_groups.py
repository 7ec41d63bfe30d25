"""From the lengths of one global batch to its micro-batches and sequence-parallel groups.

The heuristic packs (`group_packing`) within targets that are searched (`group_search`), then
exchanges sequences (`group_exchange`); groups of one degree are what it must beat. It reads no clock:
the same lengths give the same plan. The program (`groups_program`) starts from its answer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.errors import InfeasibleError
from planner.training.group_exchange import Exchange
from planner.training.group_kinds import GroupKind, group_kinds, most_tokens
from planner.training.group_packing import Draft, Pool
from planner.training.group_ranks import ranked_groups
from planner.training.group_search import Packed, Search
from planner.training.groups_bound import BatchBound
from planner.training.homogeneous_start import homogeneous_start
from planner.training.sequence_costs import TrainingFleet
from planner.training.training_plan import MicroBatch, SolverName

MOST_PAIRS = 500_000
"""Pairs of sequences that are judged for an exchange."""


@dataclass(frozen=True, slots=True)
class GroupsAnswer:
    """A plan of one global batch, and what no plan beats.

    Attributes:
        micro_batches: One after the other.
        predicted_seconds: Sum of their times.
        lower_bound_seconds: No plan of the cost model is faster.
        solver: `milp` only where the program improved on the heuristic.
    """

    micro_batches: tuple[MicroBatch, ...]
    predicted_seconds: float
    lower_bound_seconds: float
    solver: SolverName


def plan_groups(
    lengths: Sequence[int],
    fleet: TrainingFleet,
    *,
    solver: SolverName = "heuristic",
    time_limit_seconds: float = 5.0,
) -> GroupsAnswer:
    """Return micro-batches, groups, their ranks and sequences for one global batch.

    Args:
        lengths: Tokens of each sequence, padding included, at least 1.
        fleet: The cluster and the model's costs on it.
        solver: `heuristic`, or `milp` to improve on it.
        time_limit_seconds: Of the whole call where the solver is `milp`.

    Raises:
        ValueError: If there is no sequence, or one holds no token.
        InfeasibleError: If no group holds the longest sequence.
    """
    _check_lengths(lengths)
    kinds = group_kinds(fleet)
    _check_longest(lengths, fleet, kinds)
    bound = BatchBound(lengths, fleet, kinds)
    drafts = heuristic_groups(lengths, fleet, kinds, bound)
    micro_batches = ranked_groups(lengths, fleet, drafts)
    seconds = sum(part.predicted_seconds for part in micro_batches)
    lower = min(bound.seconds(), seconds)
    return GroupsAnswer(micro_batches, seconds, lower, "heuristic")


def heuristic_groups(
    lengths: Sequence[int], fleet: TrainingFleet, kinds: Sequence[GroupKind], bound: BatchBound
) -> tuple[tuple[Draft, ...], ...]:
    """Return the fastest groups found without a program."""
    pool = Pool(lengths)
    search = Search(fleet, kinds)
    best: Packed | None = None
    number = bound.least_micro_batches
    everything = search.work(pool) / bound.strength
    while best is None or (
        number <= len(lengths) and number * bound.fixed_seconds + everything < best.seconds
    ):
        found = search.best(pool, number, math.inf if best is None else best.seconds)
        best = found or best
        number += 1
    best = _exchanged(best)
    for start in _homogeneous(lengths, fleet, search, best.seconds):
        best = min(best, _exchanged(start), key=lambda packed: packed.seconds)
    return best.micro_batches


def _exchanged(packed: Packed) -> Packed:
    exchange = Exchange(packed.micro_batches)
    exchange.improve(most_pairs=MOST_PAIRS)
    return min(packed, Packed.of(exchange.micro_batches()), key=lambda found: found.seconds)


def _homogeneous(
    lengths: Sequence[int], fleet: TrainingFleet, search: Search, upper_seconds: float
) -> Iterator[Packed]:
    """Yield the plans of one degree each, but those that cannot be faster."""
    for degree in fleet.degrees:
        kinds = [kind for kind in search.kinds if kind.cost.degree == degree]
        if max(lengths) > most_tokens(kinds):
            continue
        if BatchBound(lengths, fleet, kinds).seconds() < upper_seconds:
            start = homogeneous_start(lengths, kinds, search.floor)
            if start is not None:
                yield Packed.of(start)


def _check_lengths(lengths: Sequence[int]) -> None:
    if not lengths:
        raise ValueError("lengths is empty; give at least one sequence")
    for position, length in enumerate(lengths):
        if length < 1:
            raise ValueError(f"sequence {position} holds {length} tokens; leave it out")


def _check_longest(
    lengths: Sequence[int], fleet: TrainingFleet, kinds: Sequence[GroupKind]
) -> None:
    most = most_tokens(kinds)
    position = max(range(len(lengths)), key=lambda i: lengths[i])
    if lengths[position] <= most:
        return
    if not most:
        raise InfeasibleError(
            f"the model's states leave no room for a token on {fleet.num_devices} devices; "
            "add devices or memory, or shard the states further (sharding: zero3)"
        )
    raise InfeasibleError(
        f"sequence {position} holds {lengths[position]} tokens and the largest group of "
        f"{fleet.num_devices} devices {most}; leave it out (--max-tokens {most}) or add devices"
    )
