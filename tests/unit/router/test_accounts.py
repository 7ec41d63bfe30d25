"""What a key has used and reserved, by itself and in the file that workers share."""

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import StartError
from router.governance.account import ACCOUNT_CELLS, Account, Amount, Moment
from router.governance.moments import Calendar, date_of, first_day_of_month
from router.governance.shared_accounts import SharedAccounts
from router.governance.tenant import BudgetLimit, Limits

NOON = 1_700_049_600.0
"""A noon, UTC."""
NOW = Calendar().moment(NOON)


def later(seconds: float) -> Moment:
    """Return the moment so long after noon."""
    return Calendar().moment(NOON + seconds)


def account(worker: int = 0, cells: list[int] | None = None) -> Account:
    """Return an account in memory of its own, or in `cells`."""
    return Account([0] * ACCOUNT_CELLS if cells is None else cells, 0, worker=worker)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 400), st.integers(0, 500), st.integers(0, 9)),
        max_size=40,
    )
)
def test_a_token_budget_is_passed_only_by_what_exceeds_reservations(
    steps: list[tuple[int, int, int, int]],
) -> None:
    """Used + reserved stays within the budget where no request uses more than it reserved.

    Any number of workers, requests that overlap and end in any order, some of them never.
    """
    limits = Limits(budgets=(BudgetLimit("total", tokens=1000),))
    cells = [0] * ACCOUNT_CELLS
    running: list[tuple[int, Amount]] = []
    used = 0
    for worker, asked, spent, end in steps:
        amount = Amount(asked, 0)
        if account(worker, cells).reserve(limits, amount, NOW) is None:
            running.append((worker, amount))
        if running and end < 7:
            owner, reserved = running.pop(end % len(running))
            tokens = min(spent, reserved.tokens)
            used += tokens
            account(owner, cells).settle(
                limits, reserved, Amount(tokens, 0), at_second=NOW.second, now=NOW
            )
        held = sum(reserved.tokens for _, reserved in running)
        assert account(0, cells).reserved() == Amount(held, 0)
        assert account(0, cells).spent("total", NOW) == Amount(used, 0)
        assert used + held <= 1000


def test_refusals_say_when_there_is_room() -> None:
    """Waiting is told in seconds: to the window's room, to the period's end, or that it is vain."""
    rates = Limits(requests_per_minute=1, tokens_per_minute=100)
    mine = account()
    assert mine.reserve(rates, Amount(60, 0), NOW) is None
    refusal = mine.reserve(rates, Amount(1, 0), later(20))
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_seconds) == ("requests", 40)
    refusal = account().reserve(rates, Amount(101, 0), NOW)
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_seconds) == ("tokens", None)
    daily = Limits(budgets=(BudgetLimit("day", cost_nanousd=10),))
    refusal = account().reserve(daily, Amount(1, 11), NOW)
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after_seconds) == ("budget", 12 * 3600)
    total = Limits(budgets=(BudgetLimit("total", tokens=10),))
    refusal = account().reserve(total, Amount(11, 0), NOW)
    assert refusal is not None
    assert refusal.retry_after_seconds is None


def test_a_budget_begins_again_with_its_period() -> None:
    """At midnight UTC the day's use is gone and the month's stays; a late look loses nothing."""
    limits = Limits(budgets=(BudgetLimit("day", tokens=100), BudgetLimit("month", tokens=1000)))
    mine = account()
    for moment in (NOW, later(12 * 3600), later(12 * 3600 - 1)):
        mine.settle(limits, Amount(0, 0), Amount(90, 0), at_second=NOW.second, now=moment)
    assert mine.spent("day", later(12 * 3600)) == Amount(180, 0)
    assert mine.spent("month", NOW) == Amount(270, 0)
    assert mine.spent("day", later(60 * 3600)) == Amount(0, 0)


def test_calendar_knows_months() -> None:
    """Days and months follow UTC's calendar, leap days and year ends included."""
    leap = Calendar().moment(1_709_164_800.0)  # 2024-02-29T00:00:00Z
    assert date_of(leap.day) == "2024-02-29"
    assert leap.month_ends_in_seconds == leap.day_ends_in_seconds == 86_400
    assert date_of(first_day_of_month(leap.month)) == "2024-02-01"
    end = Calendar().moment(1_735_689_599.0)  # 2024-12-31T23:59:59Z
    assert (end.month, end.month_ends_in_seconds) == (2024 * 12 + 11, 1)


def test_counts_survive_the_process(tmp_path: Path) -> None:
    """What one router counted, the next one finds, but for reservations of requests that are gone."""
    path = tmp_path / "limits"
    limits = Limits(requests_per_minute=5, budgets=(BudgetLimit("total", tokens=100),))
    for expected in (0, 1, 2):
        accounts = SharedAccounts(path)
        mine = accounts.open_account("alice")
        assert mine.requests.total == expected
        assert accounts.open_account("bob").requests.total == 0
        assert mine.reserved() == Amount(0, 0)
        assert mine.reserve(limits, Amount(60, 0), NOW) is None
        accounts.close()


def test_one_router_at_a_time(tmp_path: Path) -> None:
    """A second router on the same file is refused with one line; a damaged file is made anew."""
    path = tmp_path / "limits"
    first = SharedAccounts(path)
    with pytest.raises(StartError, match="used by another router"):
        SharedAccounts(path)
    first.open_account("alice").requests.advance(5)
    first.close()
    path.write_bytes(b"garbage" * 1000)
    again = SharedAccounts(path)
    assert again.open_account("alice").requests.newest == 0
    again.close()


def _count_up(accounts: SharedAccounts, worker: int, num_requests: int) -> None:
    accounts.become_worker(worker, is_shared=True)
    limits = Limits(requests_per_minute=1000, budgets=(BudgetLimit("total", tokens=10**9),))
    mine = accounts.open_account("alice")
    for _ in range(num_requests):
        with accounts.held("alice"):
            refusal = mine.reserve(limits, Amount(3, 0), NOW)
        if refusal is not None:
            continue
        with accounts.held("alice"):
            mine.settle(limits, Amount(3, 0), Amount(2, 1), at_second=NOW.second, now=NOW)


def _reserve_for_new_key(accounts: SharedAccounts) -> None:
    limits = Limits(budgets=(BudgetLimit("total", tokens=100),))
    for worker, tokens in enumerate((10, 60)):
        accounts.become_worker(worker, is_shared=True)
        accounts.open_account("carol").reserve(limits, Amount(tokens, 0), NOW)
    os._exit(9)


def test_a_successor_clears_keys_that_came_after_the_start(tmp_path: Path) -> None:
    """What a killed worker reserved for a key of a reload is free again; other workers' stays."""
    accounts = SharedAccounts(tmp_path / "limits")
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=_reserve_for_new_key, args=(accounts,))
    killed.start()
    killed.join(60)
    assert killed.exitcode == 9
    accounts.become_worker(1, is_shared=True)
    assert accounts.open_account("carol").reserved() == Amount(10, 0)
    accounts.close()


def test_processes_lose_no_count(tmp_path: Path) -> None:
    """Three processes that count at once reach the exact sums, and exactly the limit."""
    accounts = SharedAccounts(tmp_path / "limits")
    accounts.open_account("alice")
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_count_up, args=(accounts, n, 500)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    mine = accounts.open_account("alice")
    assert mine.spent("total", NOW) == Amount(2000, 1000)
    assert mine.reserved() == Amount(0, 0)
    assert mine.requests.total == 1000
    accounts.close()
