"""The budget of retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.retry_budget import MEMORY_SECONDS, RetryBudget

EVENTS = st.lists(
    st.one_of(
        st.just("request"), st.just("retry"), st.floats(0, 30, allow_nan=False).map(lambda s: s)
    ),
    max_size=200,
)


@given(EVENTS, st.floats(0, 1), st.floats(0, 20))
def test_retries_never_exceed_the_bound(
    events: list[str | float], fraction: float, floor: float
) -> None:
    """Whatever the order of events, the bound of the module's header holds at every moment."""
    now = 0.0
    budget = RetryBudget(fraction=fraction, floor_per_second=floor, monotonic=lambda: now)
    num_requests = num_retries = 0
    for event in events:
        if event == "request":
            budget.deposit()
            num_requests += 1
        elif event == "retry":
            num_retries += budget.withdraw()
        else:
            now += float(event)
        bound = fraction * num_requests + floor * (MEMORY_SECONDS + now)
        assert num_retries <= bound + 1e-6


def test_a_share_of_steady_requests_may_be_retried() -> None:
    """With no floor, a fifth of 100 requests a second can be retried, second after second."""
    now = 0.0
    budget = RetryBudget(fraction=0.2, floor_per_second=0, monotonic=lambda: now)
    num_retries = 0
    for index in range(10_000):
        now += 0.01
        budget.deposit()
        if index % 5 == 4:
            num_retries += budget.withdraw()
    assert num_retries == pytest.approx(2000, rel=0.02)


def test_a_quiet_router_may_retry_too() -> None:
    """The floor fills up while nothing happens, to ten seconds of it and no further."""
    now = 0.0
    budget = RetryBudget(fraction=0, floor_per_second=2, monotonic=lambda: now)
    now = 1000.0
    assert sum(budget.withdraw() for _ in range(100)) == 20
