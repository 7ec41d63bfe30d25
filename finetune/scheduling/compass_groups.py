"""Which group a client joins, and with how many steps, so that the group's answers meet.

Source: Li et al. 2023 (FedCompass, arXiv 2309.14675).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from finetune.scheduling.decisions import Assignment

ROUNDING = 1e-9
"""A quotient this little below a whole number of steps is that number."""


@dataclass(slots=True, kw_only=True)
class Group:
    """Clients that should answer at about one time.

    Attributes:
        number: Also its deadline's.
        expected_at_seconds: When they should; T_exp in the paper.
        latest_at_seconds: When it is merged without the missing; T_latest.
        fastest_seconds_per_step: Of its members, each as it joined.
        num_awaited: Members whose answer is still to come.
        received: Answers that wait for the others.
        waiting: Members that are idle until the group is merged: those that answered.
    """

    number: int
    expected_at_seconds: float
    latest_at_seconds: float
    fastest_seconds_per_step: float
    num_awaited: int = 0
    received: list[Assignment] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def group_to_join(
    groups: Iterable[Group],
    *,
    now: float,
    seconds_per_step: float,
    least_steps: int,
    most_steps: int,
) -> tuple[Group, int] | None:
    """Return the group in which the client takes the most steps, and these; None if none fits.

    Args:
        groups: Those alive, the oldest first; of equals the last is taken.
        now: Seconds.
        seconds_per_step: The client's speed.
        least_steps: Fewer do not fit.
        most_steps: More do not fit.
    """
    best: tuple[Group, int] | None = None
    for group in groups:
        steps = _whole_steps(group.expected_at_seconds - now, seconds_per_step)
        if least_steps <= steps <= most_steps and (best is None or steps >= best[1]):
            best = group, steps
    return best


def steps_of_new_group(
    groups: Iterable[Group],
    *,
    now: float,
    seconds_per_step: float,
    least_steps: int,
    most_steps: int,
) -> int:
    """Return the steps with which the client should open a group of its own.

    It aims at the time when the fastest member of another group, merged at its latest, will have
    taken `most_steps` more, so that this member can join. The arguments are those of
    `group_to_join`.
    """
    candidates = [
        _whole_steps(
            group.latest_at_seconds + group.fastest_seconds_per_step * most_steps - now,
            seconds_per_step,
        )
        for group in groups
        if now < group.latest_at_seconds
    ]
    fitting = [steps for steps in candidates if steps <= most_steps]
    return max(max(fitting), least_steps) if fitting else most_steps


def _whole_steps(seconds: float, seconds_per_step: float) -> int:
    return math.floor(seconds / seconds_per_step + ROUNDING)
