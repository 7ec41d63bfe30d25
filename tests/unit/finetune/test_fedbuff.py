"""The buffer, its weights, and who trains at once."""

import pytest

from finetune.scheduling.decisions import Aggregation, Assignment, Client
from finetune.scheduling.fedbuff import FedBuff, FedBuffSettings


def begun(num_clients=3, **changes):
    """Return a scheduler with clients of one example, and its first assignments."""
    settings = FedBuffSettings(**({"local_steps": 4, "buffer_size": 2} | changes))
    scheduler = FedBuff(settings=settings)
    names = [f"c{i}" for i in range(num_clients)]
    return scheduler, scheduler.join([Client(name, 1) for name in names], now=0)


def aggregations(decisions):
    """Return the aggregations."""
    return [one for one in decisions if isinstance(one, Aggregation)]


def test_the_buffer_is_merged_when_it_is_full_and_clients_never_wait():
    """Each answer is followed by an assignment; every second makes a version."""
    scheduler, (a, b, _) = begun()
    (a2,) = scheduler.arrive(a.number, now=1)
    merged, b2 = scheduler.arrive(b.number, now=2)
    assert [one.weight for one in merged.contributions] == [0.5, 0.5]
    assert (a2.client, a2.version, b2.client, b2.version) == ("c0", 0, "c1", 1)


def test_an_update_counts_by_the_versions_since_it_was_issued():
    """Age 1 weighs 1 / sqrt(2): 0.5 * 0.7071 for the client that was slow."""
    scheduler, (a, b, c) = begun()
    scheduler.arrive(a.number, now=1)
    _, b2 = scheduler.arrive(b.number, now=2)
    scheduler.arrive(c.number, now=3)
    (merged,) = aggregations(scheduler.arrive(b2.number, now=4))
    assert [one.weight for one in merged.contributions] == pytest.approx([0.5 * 2**-0.5, 0.5])


def test_a_buffer_of_one_merges_each_update_alone():
    """FedAsync over changes: the server rate times the staleness."""
    scheduler, (a, b, _) = begun(buffer_size=1, server_rate=0.6)
    (first,) = aggregations(scheduler.arrive(a.number, now=1))
    (second,) = aggregations(scheduler.arrive(b.number, now=2))
    assert first.contributions[0].weight == pytest.approx(0.6)
    assert second.contributions[0].weight == pytest.approx(0.6 * 2**-0.5)


def test_no_more_than_the_concurrency_train_at_once():
    """Five clients, two at a time; over time all of them have a turn."""
    scheduler, decisions = begun(5, concurrency=2)
    seen, running = set(), [one for one in decisions if isinstance(one, Assignment)]
    for now in range(1, 60):
        assert len(running) == 2
        done = running.pop(0)
        seen.add(done.client)
        running += [
            one for one in scheduler.arrive(done.number, now=now) if isinstance(one, Assignment)
        ]
    assert len(seen) == 5


def test_a_client_that_left_gives_its_place_to_another():
    """The concurrency is kept up, and the left one is not drawn again."""
    scheduler, (one, _) = begun(3, concurrency=2)
    (in_its_place,) = scheduler.leave(one.client, now=1)
    assert in_its_place.client not in {one.client}
    assert len(scheduler.ledger.busy) == 2


def test_the_end_merges_a_buffer_that_is_not_full():
    """One update of two still counts."""
    scheduler, (a, _, _) = begun()
    scheduler.arrive(a.number, now=1)
    (merged,) = aggregations(scheduler.finish(now=2))
    assert [one.client for one in merged.contributions] == ["c0"]
