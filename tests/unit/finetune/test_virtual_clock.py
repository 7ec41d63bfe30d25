"""Times, bytes and order of events under the virtual clock."""

import json
import math

import numpy as np
import pytest
from scheduling_events import EVERY_SETTINGS

from finetune.scheduling.decisions import Client
from finetune.scheduling.documents import from_document, make_scheduler, to_document
from finetune.scheduling.fedast import FedAst
from finetune.scheduling.fedcompass import FedCompassSettings
from finetune.scheduling.synchronous import SynchronousSettings
from finetune.virtual_clock import LocalResult, Presence, SimulatedClient, VirtualClock

NAMES = ("a", "b", "c")


class Counting:
    """Local work that changes the adapter by the steps taken; 100 bytes down, 50 up."""

    def __init__(self, *, broken=()):
        """Let the clients in `broken` send what the checks refuse."""
        self.calls = []
        self.broken = broken

    def train(self, tensors, assignments):
        """Return one result for each assignment."""
        self.calls.append(len(assignments))
        return [
            LocalResult(
                change={"w": np.full(2, one.steps, np.float32)},
                loss=1 / (1 + float(tensors["w"][0])),
                download_bytes=100,
                upload_bytes=50,
                is_usable=one.client not in self.broken,
            )
            for one in assignments
        ]


def clock(settings, *, work=None, seconds_per_step=(1.0, 2.0, 4.0), presences=()):
    """Return a clock of three clients with links of 100 bytes/s down and 50 up: 2 s a message pair."""
    machines = [
        SimulatedClient(Client(name, 1), seconds, 100, 50)
        for name, seconds in zip(NAMES, seconds_per_step, strict=True)
    ]
    scheduler = make_scheduler(settings)
    adapters = scheduler.settings.adapters if isinstance(scheduler, FedAst) else ("",)
    start = {adapter: {"w": np.zeros(2, np.float32)} for adapter in adapters}
    return VirtualClock(scheduler, work or Counting(), machines, start, presences=presences)


def made_at(virtual, until):
    """Run, and return when each version was made."""
    times = []

    def note(now):
        if now.num_aggregations > len(times):
            times.append(now.now_seconds)
        return True

    virtual.run(until_seconds=until, on_event=note)
    return times


def test_a_round_lasts_as_long_as_its_slowest_client():
    """1 s down, 3 steps of 4 s, 1 s up: versions at 14 and 28; all three train in one call."""
    work = Counting()
    virtual = clock(SynchronousSettings(local_steps=3), work=work)
    assert made_at(virtual, 30) == [14, 28]
    assert virtual.adapters[""]["w"].tolist() == [6, 6]
    assert work.calls == [3, 3, 3]


def test_bytes_are_counted_both_ways():
    """Three assignments went out at 0 and three at 14; three answers are back by 15."""
    virtual = clock(SynchronousSettings(local_steps=3))
    virtual.run(until_seconds=15)
    assert (virtual.download_bytes, virtual.upload_bytes) == (600, 150)


@pytest.mark.parametrize(("round_seconds", "made"), [(14, [14, 28]), (13, [13, 21])])
def test_an_answer_at_its_deadline_is_on_time(round_seconds, made):
    """With 14 s nothing is late and each round makes one version; with 13 s the slowest is, and sits one out."""
    settings = SynchronousSettings(local_steps=3, round_seconds=round_seconds)
    virtual = clock(settings)
    assert made_at(virtual, 28) == made
    assert bool(virtual.discards) == (round_seconds == 13)


def test_compass_brings_unequal_clients_together():
    """After the first answers groups form, and versions hold several updates."""
    virtual = clock(FedCompassSettings(least_steps=2, most_steps=10))
    sizes = []

    def note(now):
        sizes.append(now.num_aggregations)
        return now.num_aggregations < 30

    virtual.run(until_seconds=math.inf, on_event=note)
    answered = virtual.upload_bytes / 50
    assert answered / virtual.num_aggregations > 1.5


def test_a_refused_update_is_counted_by_its_reason():
    """Client b sends only what the checks refuse; the others' rounds go on."""
    virtual = clock(SynchronousSettings(local_steps=3), work=Counting(broken=("b",)))
    assert made_at(virtual, 30) == [14, 28]
    assert virtual.discards == {"refused by the checks": 2}


def test_clients_may_join_later_and_leave():
    """The slowest joins at 5 and is gone at 16: rounds of 8 s, one of 14 cut short, then 8 s again."""
    virtual = clock(
        SynchronousSettings(local_steps=3),
        presences=[Presence("c", joins_at_seconds=5, leaves_at_seconds=16)],
    )
    assert made_at(virtual, 30) == [8, 16, 24]


def test_a_presence_of_nobody_is_refused():
    """A misspelt name would leave its client there from the start to the end."""
    with pytest.raises(ValueError, match="no client is named 'd'; there are a, b, c"):
        clock(SynchronousSettings(local_steps=3), presences=[Presence("d", joins_at_seconds=5)])


@pytest.mark.parametrize("name", EVERY_SETTINGS)
def test_a_scheduler_replaced_after_every_event_ends_at_the_same_adapter(name):
    """Written out and read back, it goes on to the last bit as if nothing had happened."""

    def ended(cut):
        virtual = clock(EVERY_SETTINGS[name])

        def step(now):
            if cut:
                now.scheduler = from_document(json.loads(json.dumps(to_document(now.scheduler))))
            return now.num_events < 120

        virtual.run(until_seconds=math.inf, on_event=step)
        adapters = {key: value["w"].tolist() for key, value in virtual.adapters.items()}
        return adapters, virtual.now_seconds, virtual.upload_bytes, virtual.num_aggregations

    assert ended(cut=True) == ended(cut=False)
    assert ended(cut=False)[3] > 3
