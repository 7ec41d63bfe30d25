"""Several adapters over one pool of clients."""

from collections import Counter

import pytest
from pydantic import ValidationError

from finetune.scheduling.decisions import Aggregation, Assignment, Client, Discard
from finetune.scheduling.fedast import FedAst, FedAstSettings


def begun(num_clients=8, **changes):
    """Return a scheduler of two adapters and its first assignments."""
    settings = {"adapters": ("x", "y"), "local_steps": 4, "buffer_size": 2, "floor_fraction": 0.2}
    scheduler = FedAst(settings=FedAstSettings(**(settings | changes)))
    clients = [Client(f"c{i}", 1) for i in range(num_clients)]
    return scheduler, scheduler.join(clients, now=0)


def run(scheduler, running, losses, *, num_events):
    """Answer the oldest assignment each second; `losses` gives an adapter's loss by its version."""
    running = list(running)
    now = scheduler.ledger.now_seconds
    for _ in range(num_events):
        now += 1
        one = running.pop(0)
        decisions = scheduler.arrive(one.number, now=now, loss=losses[one.adapter](one.version))
        running += [decision for decision in decisions if isinstance(decision, Assignment)]
    return running


def pool(running):
    """Return how many clients train each adapter."""
    return Counter(one.adapter for one in running)


def test_the_pool_is_dealt_out_equally_before_anything_is_measured():
    """Eight clients, four for each of two adapters."""
    _, decisions = begun()
    assert pool(decisions) == {"x": 4, "y": 4}


def test_each_adapter_has_versions_and_a_buffer_of_its_own():
    """Updates of y do not fill x's buffer."""
    scheduler, decisions = begun()
    of_x, of_y = ([one for one in decisions if one.adapter == name] for name in "xy")
    scheduler.arrive(of_x[0].number, now=1, loss=1.0)
    scheduler.arrive(of_y[0].number, now=2, loss=1.0)
    assert scheduler.ledger.versions == {}
    merged = scheduler.arrive(of_x[1].number, now=3, loss=1.0)[0]
    assert isinstance(merged, Aggregation)
    assert (merged.adapter, merged.version) == ("x", 1)
    assert scheduler.ledger.version("y") == 0


def test_a_client_weighs_by_its_text_for_the_adapter():
    """Much text for y counts nothing in x, where the other has three times as much."""
    settings = FedAstSettings(adapters=("x", "y"), local_steps=4, buffer_size=2)
    scheduler = FedAst(settings=settings)
    pools = {"a": {"x": 1, "y": 99}, "b": {"x": 1, "y": 9}, "c": {"x": 3, "y": 1}}
    clients = [Client(name, sum(own.values()), own) for name, own in pools.items()]
    of_x = [one for one in scheduler.join(clients, now=0) if one.adapter == "x"]
    assert [one.client for one in of_x] == ["a", "c"]
    scheduler.arrive(of_x[0].number, now=1)
    merged = scheduler.arrive(of_x[1].number, now=2)[0]
    assert [one.weight for one in merged.contributions] == [0.25, 0.75]


def test_the_adapter_that_gains_more_has_more_clients_and_the_floor_holds():
    """The loss of y stands still: x gets 0.9 of the pool, y the 0.1 that the floor of 0.2 leaves it."""
    scheduler, decisions = begun(20)
    falling = {"x": lambda version: 5 - 0.1 * version, "y": lambda _: 2.0}
    running = run(scheduler, decisions, falling, num_events=150)
    assert scheduler.shares() == pytest.approx({"x": 0.9, "y": 0.1})
    assert pool(running) == {"x": 18, "y": 2}


def test_no_progress_anywhere_is_an_equal_deal():
    """Losses that rise or stand still give no reason to prefer an adapter."""
    scheduler, decisions = begun()
    run(scheduler, decisions, {"x": lambda _: 2.0, "y": lambda v: 1.0 + v}, num_events=40)
    assert scheduler.shares() == {"x": 0.5, "y": 0.5}


def test_a_complete_adapter_releases_its_clients_and_takes_no_more_updates():
    """Its buffer is merged; answers that still come are discarded and their clients turn to y."""
    scheduler, decisions = begun()
    of_x = [one for one in decisions if one.adapter == "x"]
    scheduler.arrive(of_x[0].number, now=1, loss=1.0)
    (merged,) = scheduler.complete("x", now=2)
    assert [one.number for one in merged.contributions] == [of_x[0].number]
    discard, assignment = scheduler.arrive(of_x[1].number, now=3, loss=1.0)
    assert isinstance(discard, Discard)
    assert assignment.adapter == "y"


def test_when_all_adapters_are_complete_nobody_trains():
    """Clients are idle, and may leave."""
    scheduler, decisions = begun(2)
    scheduler.complete("x", now=1)
    scheduler.complete("y", now=1)
    assert scheduler.shares() == {}
    for one in decisions:
        assert isinstance(scheduler.arrive(one.number, now=2, loss=1.0)[-1], Discard)
    assert scheduler.leave("c0", now=3) == []


def test_a_client_that_left_is_counted_no_more():
    """Those who come get its place."""
    scheduler, decisions = begun(2)
    scheduler.leave(decisions[0].client, now=1)
    (assignment,) = scheduler.join([Client("new", 1)], now=2)
    assert assignment.adapter == decisions[0].adapter


def test_names_that_repeat_or_are_unknown_are_refused():
    """The message holds the name."""
    with pytest.raises(ValidationError, match="names one twice"):
        FedAstSettings(adapters=("x", "x"), local_steps=1, buffer_size=1)
    scheduler, _ = begun()
    with pytest.raises(ValueError, match="'z' is none of"):
        scheduler.complete("z", now=1)
