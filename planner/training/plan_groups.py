"""From the lengths of one global batch to its micro-batches and sequence-parallel groups.

The heuristic packs (`group_packing`) within targets that are searched (`group_search`), then
exchanges sequences (`group_exchange`); groups of one degree are what it must beat. It reads no clock:
the same lengths give the same plan. The program (`groups_program`) starts from its answer.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.errors import InfeasibleError
from planner.solvers import default_solvers
from planner.training.exact_program import MOST_CHOICES, Proof, SmallBatch, solve_exactly
from planner.training.group_exchange import LEAST_GAIN, Exchange
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

MOST_VAIN = 2
"""Numbers of micro-batches in succession that were slower than fewer."""


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
    started = time.monotonic()
    _check_lengths(lengths)
    kinds = group_kinds(fleet)
    _check_longest(lengths, fleet, kinds)
    bound = BatchBound(lengths, fleet, kinds)
    best = heuristic_groups(lengths, fleet, kinds, bound)
    answer = _answer(lengths, fleet, best, bound.seconds(), "heuristic")
    if solver == "heuristic":
        return answer
    left = time_limit_seconds - (time.monotonic() - started)
    proof = improve(lengths, fleet, kinds, bound, answer, time_limit_seconds=left)
    if proof.micro_batches is not None:
        better = _answer(lengths, fleet, proof.micro_batches, proof.bound_seconds, "milp")
        if better.predicted_seconds < answer.predicted_seconds * (1 - LEAST_GAIN):
            return better
    lower = min(proof.bound_seconds, answer.predicted_seconds)
    return replace(answer, lower_bound_seconds=lower)


def _answer(
    lengths: Sequence[int],
    fleet: TrainingFleet,
    drafts: Sequence[Sequence[Draft]],
    bound_seconds: float,
    solver: SolverName,
) -> GroupsAnswer:
    micro_batches = ranked_groups(lengths, fleet, drafts)
    seconds = sum(part.predicted_seconds for part in micro_batches)
    return GroupsAnswer(micro_batches, seconds, min(bound_seconds, seconds), solver)


def improve(
    lengths: Sequence[int],
    fleet: TrainingFleet,
    kinds: tuple[GroupKind, ...],
    bound: BatchBound,
    answer: GroupsAnswer,
    *,
    time_limit_seconds: float,
) -> Proof:
    """Look for faster groups and a higher bound with a program."""
    small = SmallBatch(
        lengths=tuple(sorted(lengths, reverse=True)),
        fleet=fleet,
        kinds=kinds,
        num_micro_batches=bound.most_micro_batches(answer.predicted_seconds, len(lengths)),
        lower_seconds=answer.lower_bound_seconds,
        upper_seconds=answer.predicted_seconds,
    )
    if small.num_choices <= MOST_CHOICES and time_limit_seconds > 0:
        return solve_exactly(small, default_solvers(), time_limit_seconds=time_limit_seconds)
    return Proof(None, answer.lower_bound_seconds)


def heuristic_groups(
    lengths: Sequence[int], fleet: TrainingFleet, kinds: Sequence[GroupKind], bound: BatchBound
) -> tuple[tuple[Draft, ...], ...]:
    """Return the fastest groups found without a program."""
    search = Search(fleet, kinds)
    best = _exchanged(_searched(lengths, search, bound))
    for start in _homogeneous(lengths, fleet, search, best.seconds):
        best = min(best, _exchanged(start), key=lambda packed: packed.seconds)
    return best.micro_batches


def _searched(lengths: Sequence[int], search: Search, bound: BatchBound) -> Packed:
    """Search with the fewest micro-batches, then with more while that may help and does."""
    pool = Pool(lengths)
    everything = search.work(pool) / bound.strength
    best, upper, num_vain = None, math.inf, 0
    for number in itertools.count(bound.least_micro_batches):
        is_hopeless = number * bound.fixed_seconds + everything >= upper
        if is_hopeless or num_vain == MOST_VAIN or number > len(lengths):
            break
        found = search.best(pool, number, upper)
        if found is not None:
            best, upper, num_vain = found, found.seconds, 0
        elif best is not None:
            num_vain += 1
    assert best is not None  # as many micro-batches as sequences always do
    return best


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
