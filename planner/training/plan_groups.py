"""From the lengths of one global batch to its micro-batches and sequence-parallel groups.

The heuristic (`heuristic_groups`) always answers. A program improves on it within a time limit:
for a small batch one of the whole (`exact_program`), else one of its longest sequence's micro-batch,
asked again and again (`first_search`). Neither ever returns a slower plan or a lower bound.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.errors import InfeasibleError
from planner.solvers import default_solvers
from planner.training.exact_program import MOST_CHOICES, Proof, SmallBatch, solve_exactly
from planner.training.first_search import FirstSearch
from planner.training.group_exchange import LEAST_GAIN
from planner.training.group_kinds import GroupKind, group_kinds, has_all_kinds, most_tokens
from planner.training.group_ranks import ranked_groups
from planner.training.group_search import Packed
from planner.training.groups_bound import BatchBound
from planner.training.heuristic_groups import heuristic_groups
from planner.training.sequence_costs import TrainingFleet
from planner.training.training_plan import MicroBatch, SolverName


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
    fleet.check_states()
    _check_longest(lengths, fleet, kinds)
    bound = BatchBound(lengths, fleet, kinds)
    known = heuristic_groups(lengths, fleet, kinds, bound)
    answer = _answer(lengths, fleet, known, bound.seconds(), "heuristic")
    if solver == "heuristic" or answer.lower_bound_seconds == answer.predicted_seconds:
        return answer
    left = time_limit_seconds - (time.monotonic() - started)
    proof = _proof(lengths, fleet, kinds, bound, known, time_limit_seconds=left)
    lower = max(answer.lower_bound_seconds, proof.bound_seconds)
    better = _answer(lengths, fleet, proof.best, lower, "milp")
    if better.predicted_seconds < answer.predicted_seconds * (1 - LEAST_GAIN):
        return better
    return replace(answer, lower_bound_seconds=min(lower, answer.predicted_seconds))


def _answer(
    lengths: Sequence[int],
    fleet: TrainingFleet,
    packed: Packed,
    bound_seconds: float,
    solver: SolverName,
) -> GroupsAnswer:
    micro_batches = ranked_groups(lengths, fleet, packed.micro_batches)
    seconds = sum(part.predicted_seconds for part in micro_batches)
    return GroupsAnswer(micro_batches, seconds, min(bound_seconds, seconds), solver)


def _proof(
    lengths: Sequence[int],
    fleet: TrainingFleet,
    kinds: tuple[GroupKind, ...],
    bound: BatchBound,
    known: Packed,
    *,
    time_limit_seconds: float,
) -> Proof:
    """Improve on a plan with the program that suits the batch's size."""
    small = SmallBatch(
        lengths=tuple(sorted(lengths, reverse=True)),
        fleet=fleet,
        kinds=kinds,
        num_micro_batches=bound.most_micro_batches(known.seconds, len(lengths)),
        lower_seconds=bound.seconds(),
        known=known,
    )
    if time_limit_seconds <= 0:
        proof = Proof(known, 0.0)
    elif small.num_choices <= MOST_CHOICES:
        proof = solve_exactly(small, default_solvers(), time_limit_seconds=time_limit_seconds)
    else:
        proof = FirstSearch(lengths, fleet, kinds, bound, known).run(
            default_solvers(), time_limit_seconds=time_limit_seconds, clock=time.monotonic
        )
    # Programs of some of the kinds bound no plan of the others.
    return proof if has_all_kinds(fleet.cluster) else Proof(proof.best, 0.0)


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
            "add devices or memory, or shard the model further (`sharding: zero3` in the costs, "
            "`sharding: fsdp2` in a local job)"
        )
    raise InfeasibleError(
        f"sequence {position} holds {lengths[position]} tokens and the largest group of "
        f"{fleet.num_devices} devices {most}; leave it out (--max-tokens {most}) or add devices"
    )
