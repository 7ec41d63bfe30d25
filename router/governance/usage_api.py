"""`GET /admin/usage`: what every key has used, by model and day, and where its limits stand.

Query: `since` and `until` (days as `YYYY-MM-DD`, UTC, both included; without them today) and `key`.
Rows of other workers follow within a second; what stands under `keys` is of this moment.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from datetime import date

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.errors import ParameterError, UsageUnreadableError
from router.governance.account import Account, Amount, Moment
from router.governance.governance import Governance
from router.governance.moments import Calendar, date_of
from router.governance.shared_accounts import SharedAccounts
from router.governance.tenant import NANOUSD_PER_USD, BudgetLimit, Tenant
from router.governance.usage_store import UsageRow, UsageStore

_EPOCH = date(1970, 1, 1)


class UsageApi:
    """Answers from the usage file and the shared counts."""

    def __init__(
        self,
        governance: Governance,
        accounts: SharedAccounts | None,
        store: UsageStore | None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._governance = governance
        self._accounts = accounts
        self._store = store
        self._wall = wall

    async def usage(self, request: Request) -> Response:
        """Answer `GET /admin/usage`."""
        now = Calendar().moment(self._wall())
        since = _day(request, "since", default=now.day)
        until = _day(request, "until", default=now.day)
        name = request.query_params.get("key")
        tenants = [each for each in self._governance.tenants if name in (None, each.name)]
        rows = await asyncio.to_thread(self._rows, since, until, name)
        if name is not None and not tenants and not rows:
            raise ParameterError("key", f"no key is named {name!r:.80}; name one of the keys file")
        keys = [self._standing(tenant, now) for tenant in tenants]
        return JSONResponse({"object": "list", "data": [_row(row) for row in rows], "keys": keys})

    def _rows(self, since: int, until: int, name: str | None) -> tuple[UsageRow, ...]:
        if self._store is None:
            return ()
        self._store.flush()
        try:
            return self._store.rows(since_day=since, until_day=until, tenant=name)
        except sqlite3.Error as error:
            raise UsageUnreadableError(str(error)) from None

    def _standing(self, tenant: Tenant, now: Moment) -> dict[str, object]:
        assert self._accounts is not None
        assert tenant.name is not None
        limits = tenant.limits
        with self._accounts.held(tenant.name) as account:
            account.requests.advance(now.second)
            account.tokens.advance(now.second)
            return {
                "name": tenant.name,
                "models": tenant.models,
                "requests_per_minute": limits.requests_per_minute,
                "requests_in_last_minute": account.requests.total,
                "tokens_per_minute": limits.tokens_per_minute,
                "tokens_in_last_minute": account.tokens.total,
                "budgets": [_budget(budget, account, now) for budget in limits.budgets],
            }


def _budget(budget: BudgetLimit, account: Account, now: Moment) -> dict[str, object]:
    spent, reserved = account.spent(budget.per, now), account.reserved()
    if budget.cost_nanousd is None:
        shown = {"tokens": budget.tokens, "used": spent.tokens, "reserved": reserved.tokens}
        return {"per": budget.per, **shown}
    return {"per": budget.per, "usd": budget.cost_nanousd / NANOUSD_PER_USD} | _usd(spent, reserved)


def _usd(spent: Amount, reserved: Amount) -> dict[str, object]:
    return {
        "used": spent.cost_nanousd / NANOUSD_PER_USD,
        "reserved": reserved.cost_nanousd / NANOUSD_PER_USD,
    }


def _row(row: UsageRow) -> dict[str, object]:
    return {
        "key": row.tenant,
        "model": row.model,
        "day": date_of(row.day),
        "requests": row.num_requests,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "cost_usd": row.cost_nanousd / NANOUSD_PER_USD,
    }


def _day(request: Request, name: str, *, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        return (date.fromisoformat(text) - _EPOCH).days
    except ValueError:
        raise ParameterError(name, f"is {text!r:.40}; write a day as YYYY-MM-DD") from None
