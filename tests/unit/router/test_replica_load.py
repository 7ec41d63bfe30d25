"""What a replica carries: places, room, adapters, times."""

from hypothesis import given
from hypothesis import strategies as st

from router.base import Demand
from router.config import ModelConfig
from router.fleet import Fleet
from router.latency import Latency
from router.output_length import OutputLengths
from router.replica import Lease, Replica, ReplicaLimits


@given(
    tokens=st.lists(st.integers(0, 1000), max_size=12),
    order=st.randoms(use_true_random=False),
    names=st.lists(st.sampled_from("ab"), min_size=12, max_size=12),
)
def test_counts_return_to_zero(tokens: list[int], order: object, names: list[str]) -> None:
    """Whatever the order in which places are given back, and however often, nothing is left."""
    replica = Replica("http://a", frozenset({"m"}))
    leases = [
        Lease(replica, model=name, tokens=each) for each, name in zip(tokens, names, strict=False)
    ]
    assert replica.num_outstanding == len(tokens)
    assert replica.outstanding_tokens == sum(tokens)
    twice = leases * 2
    order.shuffle(twice)
    for lease in twice:
        lease.release()
    assert (replica.num_outstanding, replica.outstanding_tokens) == (0, 0)
    assert replica.outstanding_models == {}


def test_limits_of_requests_and_tokens() -> None:
    """A replica is full at either limit; without work it takes a request of any size."""
    replica = Replica("http://a", frozenset())
    assert replica.has_room(10**9)
    replica.limits = ReplicaLimits(capacity_tokens=100, max_outstanding=2)
    assert replica.has_room(1000)
    first = Lease(replica, tokens=60)
    assert replica.has_room(40)
    assert not replica.has_room(41)
    Lease(replica, tokens=1)
    assert not replica.has_room(1)
    first.release()
    assert replica.has_room(1)


def fleet_of(**settings: object) -> Fleet:
    entries = [{"url": "http://a"}, {"url": "http://b", **settings}]
    return Fleet([ModelConfig.model_validate({"name": "m", "replicas": entries})])


def test_the_filter_that_left_none_is_told() -> None:
    """Model, health, tried already, room: the first that lets nobody through is named."""
    fleet = fleet_of(max_outstanding=1)
    first, second = fleet.replicas
    Lease(second)
    urls = [each.url for each in fleet.candidates("m", excluding=())]
    assert urls == ["http://a"]
    assert fleet.emptied_by("unknown", excluding=()) == "model"
    assert fleet.emptied_by("m", excluding=["http://a"]) == "room"
    assert fleet.emptied_by("m", excluding=["http://a", "http://b"]) == "untried"
    first.is_healthy = second.is_healthy = False
    assert fleet.emptied_by("m", excluding=()) == "health"


def test_an_adapter_is_asked_of_replicas_that_load_it_by_themselves() -> None:
    """One that lists it is readier than one that can load it; in use is readiest; others are out."""
    fleet = fleet_of(loads_adapters=True)
    first, second = fleet.replicas
    assert fleet.candidates("sql", excluding=()) == ()
    first.listed_models = {"m": {}, "sql": {"parent": "m"}}
    fits = {each.url: each.adapter_fit for each in fleet.candidates("sql", excluding=())}
    assert fits == {"http://a": 0.8, "http://b": 0.6}
    Lease(second, model="sql")
    fits = {each.url: each.adapter_fit for each in fleet.candidates("sql", excluding=())}
    assert fits == {"http://a": 0.8, "http://b": 1.0}
    first.listed_models = {"sql": {"parent": "another"}}
    assert [each.url for each in fleet.candidates("sql", excluding=())] == ["http://a"]


def test_a_server_under_two_models_has_the_tighter_limits() -> None:
    """Limits that stand under several models of one address: the least of each counts."""
    models = [
        {"name": "m", "replicas": [{"url": "http://a", "max_outstanding": 4, "weight": 2}]},
        {"name": "n", "replicas": [{"url": "http://a", "capacity_tokens": 9}]},
    ]
    (replica,) = Fleet([ModelConfig.model_validate(each) for each in models]).replicas
    assert replica.limits == ReplicaLimits(capacity_tokens=9, max_outstanding=4, weight=1.0)


def test_latency_averages_and_forgets() -> None:
    """The newest answer weighs 0.3; after a minute without any the replica is unmeasured."""
    latency = Latency()
    assert latency.expected_seconds(10, now=0) is None
    latency.note_stream(1.0, 0.1, 50, now=0)
    latency.note_stream(2.0, 0.2, 50, now=1)
    assert latency.ttft_seconds == 1.3
    assert latency.expected_seconds(10, now=2) == 1.3 + 10 * (0.1 + 0.3 * 0.1)
    assert latency.expected_seconds(10, now=62) is None
    latency.note_whole(5.0, 50, now=70)
    assert (latency.ttft_seconds, latency.tpot_seconds) == (None, 0.1)
    latency.note_whole(5.0, 2, now=71)
    assert latency.tpot_seconds == 0.1


def test_output_lengths_are_learnt_and_limited_by_the_request() -> None:
    """The mean of the answers, at most what the request allows, times its choices."""
    lengths = OutputLengths()
    assert lengths.expected("m", {}) == 256
    assert lengths.expected("m", {"max_tokens": 10, "n": 3}) == 30
    assert lengths.expected("m", {"max_tokens": "x", "n": "y"}) == 256
    for _ in range(500):
        lengths.learn("m", 40)
    for senseless in (None, -1, 10**7):
        lengths.learn("m", senseless)
    assert lengths.expected("m", {"max_completion_tokens": 4000}) == 40
    assert lengths.expected("other", {}) == 256


def test_a_demand_is_input_and_output() -> None:
    """What must find room is both."""
    assert Demand(input_tokens=3, output_tokens=4).tokens == 7
