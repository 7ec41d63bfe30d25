"""The fleet while replicas come, drain and leave."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.config import ModelConfig, ReplicaConfig
from router.discovery.member import Member
from router.fleet import Fleet
from router.replica import Lease, Replica

URLS = tuple(f"http://h{number}" for number in range(4))


def members(urls: tuple[str, ...], model: str = "m", offer: str | None = None) -> list[Member]:
    return [Member(model, ReplicaConfig(url=url, offer=offer), "test") for url in urls]


def fleet_of(*urls: str) -> Fleet:
    fleet = Fleet([ModelConfig(name="m", replicas=(ReplicaConfig(url="http://seed"),))])
    fleet.drain(["http://seed"])
    for replica in fleet.admit(members(urls)):
        replica.is_healthy = True
    return fleet


def candidate_urls(fleet: Fleet) -> list[str]:
    return [candidate.url for candidate in fleet.candidates("m", excluding=())]


def test_a_newcomer_serves_once_it_is_found_healthy() -> None:
    """What is admitted while requests run is no candidate before its first check."""
    fleet = fleet_of("http://a")
    (new,) = fleet.admit(members(("http://a", "http://b"), offer="o"))
    assert candidate_urls(fleet) == ["http://a"]
    new.is_healthy = True
    assert [each.offer for each in fleet.candidates("m", excluding=())] == ["o", "o"]


def test_an_idle_replica_leaves_at_once_and_a_busy_one_with_its_last_request() -> None:
    """Draining takes no new request; the end of the last one removes the replica."""
    fleet = fleet_of("http://a", "http://b")
    leases = [Lease(fleet.replica("http://b")) for _ in range(2)]
    fleet.drain(["http://a", "http://b", "http://unknown"])
    assert [replica.url for replica in fleet.replicas] == ["http://b"]
    assert candidate_urls(fleet) == []
    assert fleet.configured("m") == fleet.serving("m") == ()
    leases[0].release()
    leases[0].release()
    assert fleet.find("http://b") is not None
    leases[1].release()
    assert fleet.find("http://b") is None


def test_a_draining_replica_that_is_named_again_stays() -> None:
    """It keeps its health and its load, and the end of its requests removes nothing."""
    fleet = fleet_of("http://a")
    lease = Lease(fleet.replica("http://a"))
    fleet.drain(["http://a"])
    assert fleet.admit(members(("http://a",))) == ()
    assert candidate_urls(fleet) == ["http://a"]
    lease.release()
    assert candidate_urls(fleet) == ["http://a"]


def test_a_model_of_the_file_is_known_without_any_replica() -> None:
    """A model whose replicas have all left is unavailable, not unknown."""
    fleet = fleet_of()
    assert fleet.knows("m")
    assert not fleet.knows("other")
    assert "m" in fleet.model_entries()


def test_an_address_under_two_models_is_one_replica_and_loses_one_alone() -> None:
    """A replica that is named under fewer models than before serves those."""
    fleet = fleet_of()
    fleet.base_models = ("m", "n")
    (replica,) = fleet.admit(members(("http://a",)) + members(("http://a",), "n"))
    assert replica.configured_models == {"m", "n"}
    assert fleet.admit(members(("http://a",), "n")) == ()
    assert replica.configured_models == {"n"}


class Changes(RuleBasedStateMachine):
    """Replicas come and leave in any order while requests begin and end."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = fleet_of()
        self.leases: list[Lease] = []
        self.named: set[str] = set()
        self.removed: list[Replica] = []
        self.fleet.when_removed(self.removed.append)

    @rule(urls=st.sets(st.sampled_from(URLS)))
    def name(self, urls: set[str]) -> None:
        """State who belongs."""
        for replica in self.fleet.admit(members(tuple(sorted(urls)))):
            replica.is_healthy = True
        self.fleet.drain([each.url for each in self.fleet.replicas if each.url not in urls])
        self.named = urls

    @rule(draw=st.integers(0, 99))
    def begin(self, draw: int) -> None:
        """Begin a request where it may."""
        found = candidate_urls(self.fleet)
        assert set(found) == self.named
        if found:
            self.leases.append(Lease(self.fleet.replica(found[draw % len(found)])))

    @precondition(lambda self: self.leases)
    @rule(draw=st.integers(0, 99))
    def end(self, draw: int) -> None:
        """End a request, however often that is said."""
        lease = self.leases.pop(draw % len(self.leases))
        lease.release()
        lease.release()

    @invariant()
    def counts_agree(self) -> None:
        """The fleet holds who is named, and who still has requests; each with their number."""
        running = Counter(lease.replica.url for lease in self.leases)
        assert {each.url for each in self.fleet.replicas} == self.named | set(running)
        for replica in self.fleet.replicas:
            assert replica.num_outstanding == running[replica.url]
            assert replica.is_draining == (replica.url not in self.named)
        assert all(replica.num_outstanding == 0 for replica in self.removed)


TestChanges = Changes.TestCase
