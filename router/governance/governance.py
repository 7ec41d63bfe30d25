"""Who is let in: a key's client, its limits before a request, its usage after it.

    tenant = governance.identify(headers)       # before the body is read
    admission = governance.admit(tenant, query) # reserves for the request, or raises
    ...                                         # the request
    governance.settle(admission, record)        # exactly once, however the request ended

All of it runs on the event loop and waits for no disk: counts are memory that the workers share, and
the usage file has a thread of its own.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from router.errors import (
    AuthenticationError,
    ModelForbiddenError,
    QuotaLockError,
    UsageUnwrittenError,
)
from router.governance.account import Account, Amount, Moment
from router.governance.admission import Admission, Estimate, used_tokens
from router.governance.estimate import most_completion_tokens, prompt_tokens
from router.governance.keys import Headers, KeyRing
from router.governance.meters import GovernanceMeters
from router.governance.moments import Calendar
from router.governance.prices import Prices
from router.governance.refusals import error_of, limit_headers
from router.governance.shared_accounts import SharedAccounts
from router.governance.tenant import ANONYMOUS, NANOUSD_PER_USD, Tenant
from router.governance.usage_store import UsageStore
from router.prompt import Prompt
from router.traffic_log import RequestRecord

logger = logging.getLogger(__name__)


class Asked(Protocol):
    """What admission looks at of a request."""

    @property
    def model(self) -> str:
        """The model, adapter or pool asked for."""
        ...

    @property
    def fields(self) -> Mapping[str, object]:
        """The parsed body."""
        ...

    @property
    def prompt(self) -> Prompt:
        """The input of `fields`, counted once."""
        ...


class Governance:
    """The gate of one worker; without keys it lets everybody in and counts tokens only."""

    def __init__(
        self,
        keys: KeyRing | None,
        prices: Prices,
        meters: GovernanceMeters,
        *,
        accounts: SharedAccounts | None = None,
        store: UsageStore | None = None,
        assumed_completion_tokens: int = 256,
        refuses_unwritten: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Stand on accounts and store where there are keys.

        Args:
            keys: None: everybody is let in.
            prices: Of the models.
            meters: What is counted for `/metrics`.
            accounts: The counts of the limits.
            store: The usage file.
            assumed_completion_tokens: For requests that state no limit.
            refuses_unwritten: Whether to serve nothing while usage cannot be written.
            wall: Seconds since 1970.
        """
        self._keys = keys
        self._prices = prices
        self._meters = meters
        self._accounts = accounts
        self._store = store
        self._assumed_completion_tokens = assumed_completion_tokens
        self._refuses_unwritten = refuses_unwritten
        self._wall = wall
        self._calendar = Calendar()
        self._opened: dict[str, Account] = {}

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key, and theirs end here."""
        return self._keys is not None

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """The clients that have keys."""
        return () if self._keys is None else self._keys.tenants

    def replace(
        self,
        keys: KeyRing | None,
        prices: Prices,
        *,
        assumed_completion_tokens: int,
        refuses_unwritten: bool,
    ) -> None:
        """Go by other settings from now on; requests that run are settled as they began."""
        assert (keys is not None) == self.has_keys, "a router starts with keys or runs without"
        self._keys = keys
        self._prices = prices
        self._assumed_completion_tokens = assumed_completion_tokens
        self._refuses_unwritten = refuses_unwritten

    def open_accounts(self, keys: KeyRing) -> None:
        """Make room for the counts of keys that are to come.

        Raises:
            StartError: If the disk or the file has none.
        """
        for tenant in keys.tenants:
            if tenant.name is not None and self._accounts is not None:
                self._account(tenant.name)

    def identify(self, headers: Headers) -> Tenant:
        """Return the client that sent the request.

        Raises:
            AuthenticationError: If the router has keys and the request has none of them.
        """
        if self._keys is None:
            return ANONYMOUS
        try:
            return self._keys.identify(headers)
        except AuthenticationError:
            self._meters.refused(None, "key")
            raise

    def admit(self, tenant: Tenant, asked: Asked) -> Admission:
        """Let a request in and reserve what it may use; `settle` must follow.

        Raises:
            ModelForbiddenError: If the client may not use the model.
            LimitError: If it would pass one of the client's limits.
            GovernanceError: If the limits cannot be kept at the moment.
        """
        if not tenant.allows(asked.model):
            self._meters.refused(tenant.name, "model")
            raise ModelForbiddenError(asked.model, tenant.models or ())
        if self._refuses_unwritten and self._store is not None and self._store.is_failing:
            self._meters.refused(tenant.name, "store")
            raise UsageUnwrittenError
        if not tenant.limits.any_set:
            return Admission(tenant)
        return self._reserve(tenant, asked)

    def settle(self, admission: Admission, record: RequestRecord) -> None:
        """Replace what was reserved by what the request used, and count it."""
        tokens = used_tokens(record, admission.estimate)
        is_answered = record.status == 200 or any(tokens)
        cost = None if record.cost_usd is None else round(record.cost_usd * NANOUSD_PER_USD)
        self.charge(
            admission, record.model or "", tokens, is_answered=is_answered, cost_nanousd=cost
        )

    def charge(
        self,
        admission: Admission,
        model: str,
        tokens: tuple[int, int],
        *,
        is_answered: bool = True,
        cost_nanousd: int | None = None,
    ) -> None:
        """End a request with the prompt and completion tokens it took of `model`.

        Args:
            admission: Of the request; a second call does nothing.
            model: What the tokens are booked on.
            tokens: Prompt and completion.
            is_answered: False: nothing is booked, the reservation is given back.
            cost_nanousd: Where several models took part; None: by the model's price.
        """
        if admission.is_settled:
            return
        admission.is_settled = True
        tenant = admission.tenant
        if cost_nanousd is None:
            cost_nanousd = self._prices.of(model, allowed=tenant.allows).cost_nanousd(*tokens)
        if is_answered:
            self._meters.used(tenant.name, model, tokens, cost_nanousd)
        if tenant.name is None or self._store is None:
            return
        now = self._calendar.moment(self._wall())
        self._settle_account(admission, Amount(sum(tokens), cost_nanousd), now)
        if is_answered:
            self._store.add(tenant.name, model, now.day, tokens, cost_nanousd)

    def _reserve(self, tenant: Tenant, asked: Asked) -> Admission:
        assert tenant.name is not None
        limits = tenant.limits
        amount, estimate = Amount(0, 0), None
        if limits.tokens_per_minute or limits.budgets:
            estimate = Estimate(
                prompt_tokens(asked.prompt.size),
                most_completion_tokens(asked.fields, assumed=self._assumed_completion_tokens),
            )
            price = self._prices.of(asked.model, allowed=tenant.allows)
            cost = price.cost_nanousd(estimate.prompt_tokens, estimate.completion_tokens)
            amount = Amount(estimate.prompt_tokens + estimate.completion_tokens, cost)
        accounts, account = self._account(tenant.name)
        now = self._calendar.moment(self._wall())
        accounts.lock(tenant.name)
        try:
            refusal = account.reserve(limits, amount, now)
            headers = limit_headers(limits, account)
        finally:
            accounts.unlock(tenant.name)
        if refusal is not None:
            self._meters.refused(tenant.name, refusal.reason)
            raise error_of(refusal, headers)
        return Admission(tenant, estimate, amount.tokens, amount.cost_nanousd, now.second, headers)

    def _settle_account(self, admission: Admission, used: Amount, now: Moment) -> None:
        name = admission.tenant.name
        assert name is not None
        accounts, account = self._account(name)
        try:
            accounts.lock(name)
        except QuotaLockError as error:
            self._meters.refused(name, "lock")
            logger.error("limits not corrected tenant=%s problem=%s", name, error)
            return
        try:
            account.settle(
                admission.tenant.limits,
                Amount(admission.reserved_tokens, admission.reserved_nanousd),
                used,
                at_second=admission.reserved_second,
                now=now,
            )
        finally:
            accounts.unlock(name)

    def _account(self, name: str) -> tuple[SharedAccounts, Account]:
        assert self._accounts is not None, "clients with limits need accounts"
        account = self._opened.get(name)
        if account is None:
            account = self._opened[name] = self._accounts.open_account(name)
        return self._accounts, account
