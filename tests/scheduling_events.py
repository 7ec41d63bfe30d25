"""Random but possible events for a scheduler, with a book of what became of every update."""

import random
from collections import Counter
from collections.abc import Callable

from finetune.scheduling.decisions import Aggregation, Arm, Assignment, Client, Discard
from finetune.scheduling.documents import SchedulerSettings, make_scheduler
from finetune.scheduling.fedast import FedAstSettings
from finetune.scheduling.fedbuff import FedBuffSettings
from finetune.scheduling.fedcompass import FedCompassSettings
from finetune.scheduling.scheduler import Scheduler
from finetune.scheduling.selection import SpeedTiers, UniformSample
from finetune.scheduling.synchronous import SynchronousSettings

EVERY_SETTINGS = {
    "synchronous": SynchronousSettings(local_steps=5),
    "synchronous-deadline": SynchronousSettings(
        local_steps=5, round_seconds=12, selection=UniformSample(num_clients=3), seed=4
    ),
    "synchronous-tiers": SynchronousSettings(
        local_steps=5, round_seconds=30, selection=SpeedTiers(num_tiers=2, num_clients=2)
    ),
    "fedcompass": FedCompassSettings(least_steps=2, most_steps=8, idle_limit_seconds=9),
    "fedbuff": FedBuffSettings(local_steps=5, buffer_size=3),
    "fedbuff-concurrency": FedBuffSettings(local_steps=5, buffer_size=3, concurrency=2, seed=9),
    "fedast": FedAstSettings(adapters=("x", "y"), local_steps=5, buffer_size=2),
}


class RandomRun:
    """Feeds one scheduler; two runs of one seed tell the same as long as the answers are the same.

    Attributes:
        told: Decisions of each event.
        usable: Numbers whose usable update came while it was out.
        merged: How often each number was merged.
        discarded: How often each number was discarded.
    """

    def __init__(self, settings: SchedulerSettings, seed: int) -> None:
        """Let five clients join at 0."""
        self.scheduler = make_scheduler(settings)
        self.told: list[list[object]] = []
        self.usable: set[int] = set()
        self.merged: Counter[int] = Counter()
        self.discarded: Counter[int] = Counter()
        self.adapters_of: dict[int, str] = {}
        self._random = random.Random(seed)
        self._now = 0.0
        self._out: list[int] = []
        self._answered: list[int] = []
        self._deadlines: dict[int, float] = {}
        self._next_client = 5
        clients = [Client(f"c{i}", 1 + i) for i in range(5)]
        self._note(self.scheduler.join(clients, now=0))

    def run(self, num_events: int, restored: Callable[[Scheduler], Scheduler]) -> None:
        """Tell so many events, replacing the scheduler after each; then end."""
        for _ in range(num_events):
            self._event()
            self.scheduler = restored(self.scheduler)
        self._note(self.scheduler.finish(now=self._now))
        self.scheduler = restored(self.scheduler)
        for number in self._out:
            self._note(self.scheduler.arrive(number, now=self._now, loss=1.0))

    def _event(self) -> None:
        # At whole seconds, so that many events meet at one instant.
        self._now += self._random.choice((0, 0, 1, 3, 7))
        due = [n for n, at_seconds in self._deadlines.items() if at_seconds <= self._now]
        kind = self._random.choices(
            ("answer", "deadline", "again", "join", "leave"), (12, 6, 1, 1, 1)
        )[0]
        if kind == "deadline" and due:
            number = self._random.choice(due)
            del self._deadlines[number]
            self._note(self.scheduler.deadline(number, now=self._now))
        elif kind == "again" and self._answered:
            number = self._random.choice(self._answered)
            self._note(self.scheduler.arrive(number, now=self._now, loss=1.0))
        elif kind == "join":
            client = Client(f"c{self._next_client}", self._next_client)
            self._next_client += 1
            self._note(self.scheduler.join([client], now=self._now))
        elif kind == "leave" and len(self.scheduler.ledger.clients) > 2:
            name = self._random.choice(sorted(self.scheduler.ledger.clients))
            self._note(self.scheduler.leave(name, now=self._now))
        elif self._out:
            self._answer()

    def _answer(self) -> None:
        number = self._out.pop(self._random.randrange(len(self._out)))
        self._answered.append(number)
        usable = self._random.random() < 0.9
        if usable and number in self.scheduler.ledger.outstanding:
            self.usable.add(number)
        loss = 1 + self._random.random()
        decisions = self.scheduler.arrive(number, now=self._now, usable=usable, loss=loss)
        self._note(decisions)

    def _note(self, decisions: list[object]) -> None:
        self.told.append(decisions)
        for decision in decisions:
            if isinstance(decision, Assignment):
                self._out.append(decision.number)
                self.adapters_of[decision.number] = decision.adapter
            elif isinstance(decision, Arm):
                self._deadlines[decision.number] = decision.at_seconds
            elif isinstance(decision, Discard):
                self.discarded[decision.number] += 1
            elif isinstance(decision, Aggregation):
                for one in decision.contributions:
                    assert self.adapters_of[one.number] == decision.adapter
                    assert one.weight > 0
                    self.merged[one.number] += 1
