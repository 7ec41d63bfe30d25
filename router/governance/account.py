"""What one key has used and reserved: whole numbers in memory that the workers share.

A request is reserved for before it goes to a replica: one request and the tokens it may take, at the
model's prices. When it ends the reservation is replaced by what was used. A limit is checked against
used + reserved, so requests that run at once cannot pass it together; what can pass it is what a
request uses beyond its reservation, and one that states `max_tokens` reserves all it may generate.

Reservations stand in a place of the worker that made them: when a worker dies, its successor clears
them, and what others reserved stays.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from router.config import MOST_WORKERS
from router.governance.tenant import BudgetLimit, Limits, Period
from router.governance.window import NUM_CELLS, Cells, Window

_PERIODS: dict[Period, int] = {"day": 0, "month": 3, "total": 6}
"""Period → the place of its number; its tokens and its cost follow."""
_REQUESTS = 9
_TOKENS = _REQUESTS + NUM_CELLS
_RESERVED = _TOKENS + NUM_CELLS
ACCOUNT_CELLS = _RESERVED + 2 * MOST_WORKERS
"""What an account takes."""


class Moment(NamedTuple):
    """A wall-clock time as accounts need it, all in UTC."""

    second: int
    """Since 1970."""
    day: int
    """Days since 1970."""
    month: int
    """Months since the year 0."""
    day_ends_in_seconds: int
    month_ends_in_seconds: int

    def period(self, per: Period) -> int:
        """Return the number of the period that this moment is in; 0 for `total`."""
        return {"day": self.day, "month": self.month, "total": 0}[per]

    def ends_in_seconds(self, per: Period) -> int | None:
        """Return how long the period still lasts; None for `total`."""
        ends: dict[Period, int | None]
        ends = {"day": self.day_ends_in_seconds, "month": self.month_ends_in_seconds, "total": None}
        return ends[per]


class Amount(NamedTuple):
    """What a request may use, or has used."""

    tokens: int
    cost_nanousd: int


NOTHING = Amount(0, 0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit a request would pass."""

    reason: Literal["requests", "tokens", "budget"]
    limit: int
    used: int
    asked: int
    retry_after_seconds: int | None
    """None: waiting will not help."""
    budget: BudgetLimit | None = None


class Account:
    """One key's numbers in `cells` from `start` on; several processes take turns by a lock."""

    __slots__ = ("_cells", "_mine", "_reserved", "_start", "requests", "tokens")

    def __init__(self, cells: Cells, start: int, *, worker: int = 0) -> None:
        """View the account as the worker of that number, from 0."""
        self._cells = cells
        self._start = start
        self._reserved = start + _RESERVED
        self._mine = self._reserved + 2 * worker
        self.requests = Window(cells, start + _REQUESTS)
        self.tokens = Window(cells, start + _TOKENS)

    def spent(self, per: Period, now: Moment) -> Amount:
        """Return what was used in the period so far."""
        place = self._start + _PERIODS[per]
        if not self._is_current(place, now.period(per)):
            return NOTHING
        return Amount(self._cells[place + 1], self._cells[place + 2])

    def reserved(self) -> Amount:
        """Return what the requests that run now have reserved, over all workers."""
        start, end = self._reserved, self._reserved + 2 * MOST_WORKERS
        return Amount(sum(self._cells[start:end:2]), sum(self._cells[start + 1 : end : 2]))

    def raise_spent(self, per: Period, now: Moment, least: Amount) -> None:
        """Take `least` for what was used in the period, where less is known here."""
        place = self._begin(per, now)
        self._cells[place + 1] = max(self._cells[place + 1], least.tokens)
        self._cells[place + 2] = max(self._cells[place + 2], least.cost_nanousd)

    def reserve(self, limits: Limits, amount: Amount, now: Moment) -> Refusal | None:
        """Count one request and reserve `amount`, or say which limit that would pass."""
        self.requests.advance(now.second)
        self.tokens.advance(now.second)
        refusal = self._check(limits, amount, now)
        if refusal is None:
            self.requests.add(1)
            if limits.tokens_per_minute:
                self.tokens.add(amount.tokens)
            if limits.budgets:
                self._cells[self._mine] += amount.tokens
                self._cells[self._mine + 1] += amount.cost_nanousd
        return refusal

    def settle(
        self, limits: Limits, reserved: Amount, used: Amount, *, at_second: int, now: Moment
    ) -> None:
        """Replace what was reserved in `at_second` by what was used."""
        if limits.tokens_per_minute:
            self.tokens.advance(now.second)
            if used.tokens < reserved.tokens:
                self.tokens.take_back(reserved.tokens - used.tokens, at_second)
            else:
                self.tokens.add(used.tokens - reserved.tokens)
        if limits.budgets:
            self._cells[self._mine] -= reserved.tokens
            self._cells[self._mine + 1] -= reserved.cost_nanousd
        for per in _PERIODS:
            place = self._begin(per, now)
            self._cells[place + 1] += used.tokens
            self._cells[place + 2] += used.cost_nanousd

    def clear_reservations(self) -> None:
        """Forget what this worker's number has reserved: its requests ended with it."""
        self._cells[self._mine] = self._cells[self._mine + 1] = 0

    def clear_all_reservations(self) -> None:
        """Forget what any worker has reserved, before the first one runs."""
        for place in range(self._reserved, self._reserved + 2 * MOST_WORKERS):
            self._cells[place] = 0

    def _is_current(self, place: int, number: int) -> bool:
        # Another worker may have begun the next period since this one looked at the clock.
        return self._cells[place] in (number, number + 1)

    def _begin(self, per: Period, now: Moment) -> int:
        """Return the place of a period's numbers, which begin at 0 if it is a new one."""
        place, number = self._start + _PERIODS[per], now.period(per)
        if not self._is_current(place, number):
            self._cells[place] = number
            self._cells[place + 1] = self._cells[place + 2] = 0
        return place

    def _check(self, limits: Limits, amount: Amount, now: Moment) -> Refusal | None:
        wait: int | None
        most = limits.requests_per_minute
        if most is not None and self.requests.total + 1 > most:
            wait = self.requests.seconds_until_room(1, most)
            return Refusal("requests", most, self.requests.total, 1, wait)
        most = limits.tokens_per_minute
        if most is not None and self.tokens.total + amount.tokens > most:
            fits = amount.tokens <= most
            wait = self.tokens.seconds_until_room(amount.tokens, most) if fits else None
            return Refusal("tokens", most, self.tokens.total, amount.tokens, wait)
        if limits.budgets:
            return self._check_budgets(limits.budgets, amount, now)
        return None

    def _check_budgets(
        self, budgets: tuple[BudgetLimit, ...], amount: Amount, now: Moment
    ) -> Refusal | None:
        reserved = self.reserved()
        for budget in budgets:
            spent = self.spent(budget.per, now)
            if budget.tokens is not None:
                limit, used = budget.tokens, spent.tokens
                held, asked = reserved.tokens, amount.tokens
            else:
                assert budget.cost_nanousd is not None
                limit, used = budget.cost_nanousd, spent.cost_nanousd
                held, asked = reserved.cost_nanousd, amount.cost_nanousd
            if used >= limit or used + held + asked > limit:
                # Running requests may leave some of what they reserved.
                wait = 1 if used + asked <= limit else now.ends_in_seconds(budget.per)
                return Refusal("budget", limit, used + held, asked, wait, budget)
        return None
