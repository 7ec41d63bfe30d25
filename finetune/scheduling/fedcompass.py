"""FedCompass: steps by measured speed, so that groups of clients answer together.

A client's first answer tells its speed and is merged alone. From then on it belongs to a group with
an expected and a latest time: it joins the group in which it can take the most steps, or opens one.
A group is merged when its last member has answered or at its latest time. A late answer waits for
whatever is merged next, and its client goes on with the current version in another group.

Unlike in the published code, staleness weights fall; an answer counts once under its own number, never
in another's place; late answers cannot wait forever; examples weigh; no speed is believed beyond a
floor.

Source: Li et al. 2023 (arXiv 2309.14675) and its published code; their symbols are Q_min and Q_max
(least and most steps), lambda (latest factor), alpha (server rate), S (seconds per step).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import Field, model_validator

from finetune.scheduling.compass_groups import Group, group_to_join, steps_of_new_group
from finetune.scheduling.decisions import Assignment, Decision
from finetune.scheduling.ledger import FASTEST_SECONDS_PER_STEP
from finetune.scheduling.scheduler import Scheduler
from finetune.scheduling.staleness import Polynomial, Staleness
from planner.config import StrictModel


class FedCompassSettings(StrictModel):
    """Semi-asynchronous training in groups."""

    kind: Literal["fedcompass"] = "fedcompass"
    """Chooses this kind."""
    least_steps: int = Field(gt=0)
    """Fewest local steps of an assignment."""
    most_steps: int = Field(gt=0)
    """Most local steps."""
    first_steps: int | None = Field(default=None, gt=0)
    """Steps of a client's first assignment, which tells its speed; null: `least_steps`. The paper
    takes `most_steps`, and slow clients have no say until they have taken them."""
    speed_momentum: float = Field(default=0.9, gt=0, le=1)
    """Weight of the newest answer in a client's speed."""
    fastest_seconds_per_step: float = Field(default=FASTEST_SECONDS_PER_STEP, gt=0)
    """No client is believed to be faster."""
    latest_factor: float = Field(default=1.5, ge=1)
    """A group's latest time over its expected time, both from its opening."""
    server_rate: float = Field(default=1.0, gt=0)
    """Factor of every change; 0.9 in the paper's example."""
    staleness: Staleness = Polynomial()
    """How much less an old update counts; must fall with every version."""
    step_exponent: float = Field(default=0.5, ge=0, le=1)
    """How far each change is scaled to the mean steps of those merged with it: by the ratio to this
    power. At 0, as in the paper, clients that are fast and so take more steps also pull harder; 1 is
    FedNova's scaling (Wang et al. 2020, arXiv 2007.07481), which also scales the noise of few steps
    up."""
    idle_limit_seconds: float = Field(default=3600.0, gt=0)
    """Longest time a late update waits for a group to be merged with."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.least_steps > self.most_steps:
            raise ValueError(
                f"least_steps {self.least_steps} is above most_steps {self.most_steps}; lower it"
            )
        if not self.staleness.is_strictly_decreasing:
            raise ValueError(
                f"staleness {self.staleness.kind!r} does not fall with every version; "
                "choose polynomial, or hinge without grace"
            )
        return self


@dataclass(slots=True, kw_only=True)
class FedCompass(Scheduler):
    """The groups and the late.

    Attributes:
        settings: What was asked for.
        groups: Those alive, by number, the oldest first.
        group_of: Group of each outstanding assignment but the first of a client; the group may be
            gone by now.
        late: Late updates that wait.
        idle_deadline: Number of the deadline at which they wait no longer.
    """

    settings: FedCompassSettings
    groups: dict[int, Group] = field(default_factory=dict)
    group_of: dict[int, int] = field(default_factory=dict)
    late: list[Assignment] = field(default_factory=list)
    idle_deadline: int | None = None

    def _joined(self, clients: Sequence[str]) -> list[Decision]:
        steps = self.settings.first_steps or self.settings.least_steps
        return [self.ledger.issue(client, steps=steps) for client in clients]

    def _arrived(
        self, assignment: Assignment, *, usable: bool, loss: float | None
    ) -> list[Decision]:
        self.ledger.measure(
            assignment,
            momentum=self.settings.speed_momentum,
            floor=self.settings.fastest_seconds_per_step,
        )
        number = self.group_of.pop(assignment.number, None)
        if number is None:
            merged = self._merge([assignment]) if usable else []
            return merged + self._place(assignment.client)
        decisions: list[Decision] = []
        group = self.groups.get(number)
        if group is not None and self.ledger.now_seconds > group.latest_at_seconds:
            # The deadline is about to be told, but this answer is late already.
            decisions = self._close(group)
            group = None
        if group is None:
            kept = self._keep_late(assignment) if usable else []
            return [*decisions, *kept, *self._place(assignment.client)]
        group.num_awaited -= 1
        group.waiting.append(assignment.client)
        if usable:
            group.received.append(assignment)
        return self._close(group) if group.num_awaited == 0 else []

    def _timed_out(self, number: int) -> list[Decision]:
        if number == self.idle_deadline:
            return self._merge_with_late([])
        return self._close(self.groups[number])

    def _left(self, client: str, assignment: Assignment | None) -> list[Decision]:
        if assignment is None:
            for group in self.groups.values():
                if client in group.waiting:
                    group.waiting.remove(client)
            return []
        left = self.groups.get(self.group_of.pop(assignment.number, 0))
        if left is None:
            return []
        left.num_awaited -= 1
        return self._close(left) if left.num_awaited == 0 else []

    def _flush(self) -> list[Decision]:
        received = [update for group in self.groups.values() for update in group.received]
        self.groups.clear()
        self.group_of.clear()
        return self._merge_with_late(received)

    def _place(self, client: str) -> list[Decision]:
        """Assign a client of known speed to a group, opening one if none fits.

        Steps begin and end within what its links leave of the time. A new group's steps are chosen
        as if links took all clients equally long.
        """
        now, speed = self.ledger.now_seconds, self.ledger.seconds_per_step[client]
        least, most = self.settings.least_steps, self.settings.most_steps
        live = self.groups.values()
        overhead = self.ledger.overhead_seconds.get(client, 0.0)
        joined = group_to_join(
            live, now=now + overhead, seconds_per_step=speed, least_steps=least, most_steps=most
        )
        armed: list[Decision] = []
        if joined is not None:
            group, steps = joined
            group.fastest_seconds_per_step = min(group.fastest_seconds_per_step, speed)
        else:
            steps = steps_of_new_group(
                live, now=now, seconds_per_step=speed, least_steps=least, most_steps=most
            )
            seconds = overhead + steps * speed
            arm = self.ledger.arm(now + seconds * self.settings.latest_factor)
            group = Group(
                number=arm.number,
                expected_at_seconds=now + seconds,
                latest_at_seconds=arm.at_seconds,
                fastest_seconds_per_step=speed,
            )
            self.groups[group.number] = group
            armed = [arm]
        group.num_awaited += 1
        assignment = self.ledger.issue(client, steps=steps)
        self.group_of[assignment.number] = group.number
        return [*armed, assignment]

    def _close(self, group: Group) -> list[Decision]:
        """Merge a group and place those that waited anew, the fastest first."""
        del self.groups[group.number]
        decisions: list[Decision] = [*self.ledger.disarm(group.number)]
        decisions += self._merge_with_late(group.received)
        speeds = self.ledger.seconds_per_step
        for client in sorted(group.waiting, key=lambda name: (speeds[name], name)):
            decisions += self._place(client)
        return decisions

    def _keep_late(self, update: Assignment) -> list[Decision]:
        self.late.append(update)
        if self.idle_deadline is not None:
            return []
        arm = self.ledger.arm(self.ledger.now_seconds + self.settings.idle_limit_seconds)
        self.idle_deadline = arm.number
        return [arm]

    def _merge_with_late(self, updates: Sequence[Assignment]) -> list[Decision]:
        disarmed = self.ledger.disarm(self.idle_deadline)
        late, self.late, self.idle_deadline = self.late, [], None
        return [*disarmed, *self._merge([*updates, *late])]

    def _merge(self, updates: Sequence[Assignment]) -> list[Decision]:
        if not updates:
            return []
        version, staleness = self.ledger.version(), self.settings.staleness
        # An update may outlive its client's presence; its examples count with the others' then.
        gone = {
            update.client: update.num_examples
            for update in updates
            if update.client not in self.ledger.clients
        }
        total = self.ledger.total_examples + sum(gone.values())
        weights = [
            self.settings.server_rate
            * staleness.weight(version - update.version)
            * factor
            * update.num_examples
            / total
            for update, factor in zip(updates, self._step_factors(updates), strict=True)
        ]
        return [self.ledger.merge(updates, weights)]

    def _step_factors(self, updates: Sequence[Assignment]) -> list[float]:
        exponent = self.settings.step_exponent
        examples = sum(update.num_examples for update in updates)
        mean = sum(update.steps * update.num_examples for update in updates) / examples
        return [(mean / update.steps) ** exponent for update in updates]
