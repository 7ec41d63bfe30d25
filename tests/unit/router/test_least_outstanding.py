"""The default policy."""

from router.base import Candidate, Query
from router.policies.least_outstanding import LeastOutstanding

QUERY = Query(model="m", fields={})


def test_fewest_outstanding_wins() -> None:
    """The least loaded replica is picked wherever it stands in the list."""
    policy = LeastOutstanding()
    for place in range(3):
        loads = [2, 2, 2]
        loads[place] = 1
        candidates = [Candidate(f"r{index}", load) for index, load in enumerate(loads)]
        decision = policy.pick(candidates, QUERY)
        assert decision.url == f"r{place}"
        assert dict(decision.scores) == {f"r{index}": load for index, load in enumerate(loads)}


def test_ties_rotate() -> None:
    """Equal replicas are picked in turn, also after one of them has been away."""
    policy = LeastOutstanding()
    three = [Candidate(name, 0) for name in "abc"]
    assert [policy.pick(three, QUERY).url for _ in range(4)] == ["a", "b", "c", "a"]
    assert policy.pick(three[:2], QUERY).url == "b"
    assert policy.pick(three, QUERY).url == "c"
