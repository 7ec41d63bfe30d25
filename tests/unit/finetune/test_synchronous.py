"""Rounds, with and without a deadline."""

import pytest

from finetune.scheduling.decisions import Aggregation, Arm, Assignment, Client, Disarm, Discard
from finetune.scheduling.selection import UniformSample
from finetune.scheduling.synchronous import Synchronous, SynchronousSettings


def begun(examples=(1, 3), **changes):
    """Return a scheduler with clients a, b, ... and the numbers of the first round's assignments."""
    settings = SynchronousSettings(**({"local_steps": 4} | changes))
    scheduler = Synchronous(settings=settings)
    clients = [Client(name, n) for name, n in zip("abcdef", examples, strict=False)]
    return scheduler, of(scheduler.join(clients, now=0), Assignment)


def of(decisions, kind):
    """Return the decisions of one kind."""
    return [decision for decision in decisions if isinstance(decision, kind)]


def weights(decisions):
    """Return each aggregation's weights by client."""
    return [{c.client: c.weight for c in one.contributions} for one in of(decisions, Aggregation)]


def test_a_round_ends_with_its_last_answer_and_the_next_begins():
    """Weights are shares of the examples; the next round starts from the new version."""
    scheduler, (a, b) = begun()
    assert scheduler.arrive(a.number, now=5) == []
    decisions = scheduler.arrive(b.number, now=9)
    assert weights(decisions) == [{"a": 0.25, "b": 0.75}]
    following = of(decisions, Assignment)
    assert [(one.client, one.version, one.steps) for one in following] == [("a", 1, 4), ("b", 1, 4)]


def test_the_deadline_ends_a_round_without_the_missing():
    """Client b is still busy, so a alone takes part in the next; b's late update is discarded."""
    scheduler, (a, b) = begun(round_seconds=10)
    scheduler.arrive(a.number, now=5)
    decisions = scheduler.deadline(scheduler.round_deadline, now=10)
    assert weights(decisions) == [{"a": 1.0}]
    (again,) = of(decisions, Assignment)
    assert again.client == "a"
    (discard,) = scheduler.arrive(b.number, now=11)
    assert (discard.number, discard.reason) == (b.number, "came after its round had ended")
    decisions = scheduler.arrive(again.number, now=15)
    assert weights(decisions) == [{"a": 1.0}]
    assert [one.client for one in of(decisions, Assignment)] == ["a", "b"]


def test_a_round_nobody_answered_in_time_ends_with_its_first_answer():
    """The deadline finds nothing to merge; it neither fails nor begins anew."""
    scheduler, (a, b) = begun(round_seconds=10)
    assert scheduler.deadline(scheduler.round_deadline, now=10) == []
    assert weights(scheduler.arrive(b.number, now=12)) == [{"b": 1.0}]
    assert of(scheduler.arrive(a.number, now=13), Discard)


@pytest.mark.parametrize("deadline_first", [True, False])
def test_a_deadline_and_the_last_answer_at_one_instant_end_the_round_once(deadline_first):
    """The answer is on time or late by the order told; one version is made."""
    scheduler, (a, b) = begun(round_seconds=10)
    scheduler.arrive(a.number, now=5)
    number = scheduler.round_deadline
    events = [
        lambda: scheduler.arrive(b.number, now=10),
        lambda: scheduler.deadline(number, now=10),
    ]
    decisions = [one for event in events[:: -1 if deadline_first else 1] for one in event()]
    assert len(of(decisions, Aggregation)) == 1
    assert scheduler.ledger.version() == 1


def test_a_round_that_ends_early_calls_its_deadline_off():
    """The next round's deadline is its own."""
    scheduler, (a, b) = begun(round_seconds=10)
    first = scheduler.round_deadline
    scheduler.arrive(a.number, now=5)
    decisions = scheduler.arrive(b.number, now=6)
    assert of(decisions, Disarm) == [Disarm(first)]
    assert of(decisions, Arm) == [Arm(scheduler.round_deadline, 16)]
    assert scheduler.deadline(first, now=10) == []


def test_a_refused_update_leaves_the_others_weights_whole():
    """The round ends with b alone, whose weight is 1."""
    scheduler, (a, b) = begun()
    scheduler.arrive(a.number, now=5, usable=False)
    assert weights(scheduler.arrive(b.number, now=9)) == [{"b": 1.0}]


def test_a_client_that_leaves_is_not_waited_for():
    """The round ends with those that are left."""
    scheduler, (a, _) = begun()
    scheduler.arrive(a.number, now=5)
    decisions = scheduler.leave("b", now=6)
    assert weights(decisions) == [{"a": 1.0}]
    assert [one.client for one in of(decisions, Assignment)] == ["a"]


def test_a_client_that_joins_takes_part_from_the_next_round_on():
    """A round that goes on is not disturbed."""
    scheduler, (a, b) = begun()
    assert scheduler.join([Client("z", 1)], now=1) == []
    scheduler.arrive(a.number, now=5)
    decisions = scheduler.arrive(b.number, now=9)
    assert [one.client for one in of(decisions, Assignment)] == ["a", "b", "z"]


def test_a_sample_takes_part_and_only_it_is_waited_for():
    """Two of six train in each round."""
    scheduler, first = begun((1,) * 6, selection=UniformSample(num_clients=2))
    assert len(first) == 2
    scheduler.arrive(first[0].number, now=1)
    decisions = scheduler.arrive(first[1].number, now=2)
    assert len(of(decisions, Aggregation)) == 1
    assert len(of(decisions, Assignment)) == 2


def test_what_a_cut_short_round_received_is_merged_at_the_end():
    """The end of the run loses no update."""
    scheduler, (a, _) = begun()
    scheduler.arrive(a.number, now=5)
    assert weights(scheduler.finish(now=6)) == [{"a": 1.0}]


def test_time_that_runs_backwards_is_refused():
    """A wall clock that was set back is not taken for time."""
    scheduler, (a, _) = begun()
    scheduler.arrive(a.number, now=5)
    with pytest.raises(ValueError, match="now is 4, before 5; give a monotonic"):
        scheduler.leave("b", now=4)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (lambda s: s.join([Client("a", 1)], now=1), "'a' is present already"),
        (lambda s: s.join([Client("z", 0)], now=1), "'z' has 0 examples"),
        (lambda s: s.leave("z", now=1), "'z' is not present"),
        (lambda s: s.arrive(1, now=1, loss=float("nan")), "reports a loss of nan; refuse"),
    ],
)
def test_an_impossible_event_is_refused_with_its_reason(event, message):
    """The caller's mistake is named, not carried on."""
    scheduler, _ = begun()
    with pytest.raises(ValueError, match=message):
        event(scheduler)
