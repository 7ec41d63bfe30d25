"""The files of governance, read and opened once before any worker runs."""

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.errors import DocumentError
from planner.key_file import read_key
from router.config import ModelConfig, RouterConfig
from router.errors import StartError
from router.governance.keys import KeyRing, digest_of, read_key_ring
from router.governance.moments import Calendar, first_day_of_month
from router.governance.prices import Prices
from router.governance.shared_accounts import SharedAccounts
from router.governance.usage_store import UsageStore

logger = logging.getLogger(__name__)

LIMITS_SUFFIX = ".limits"
"""After the name of the usage file: the counts of the limits."""


@dataclass(frozen=True, slots=True)
class GovernanceFiles:
    """What workers inherit."""

    keys: KeyRing | None
    """None: the router has no keys."""
    accounts: SharedAccounts | None
    store: UsageStore | None

    def begin_worker(self, number: int = 0, *, is_shared: bool = False) -> None:
        """Make this process the worker of that number: it counts and writes from now on."""
        if self.accounts is not None and self.store is not None:
            self.accounts.become_worker(number, is_shared=is_shared)
            self.store.start()

    def close(self) -> None:
        """Write what is left; in the worker that began."""
        if self.store is not None:
            self.store.close()
        if self.accounts is not None:
            self.accounts.close()


def open_files(config: RouterConfig, *, wall: Callable[[], float] = time.time) -> GovernanceFiles:
    """Read the keys and open the counts, raised to what the usage file says.

    Raises:
        DocumentError: If a file of keys cannot be used.
        StartError: If the usage file or that of the limits cannot.
    """
    governance = config.governance
    if governance.keys_file is None:
        return GovernanceFiles(None, None, None)
    keys = read_keys(governance.keys_file, config.models)
    store = UsageStore(governance.usage_file)
    limits_path = governance.usage_file.with_name(governance.usage_file.name + LIMITS_SUFFIX)
    accounts = SharedAccounts(limits_path)
    try:
        _raise_spent(keys, accounts, store, wall())
    except sqlite3.Error as error:
        accounts.close()
        message = (
            f"governance.usage_file: {governance.usage_file} cannot be read ({error}); move it away"
        )
        raise StartError(message) from None
    except BaseException:
        accounts.close()
        raise
    if not keys.tenants:
        logger.warning("no keys, every client is refused path=%s", governance.keys_file)
    return GovernanceFiles(keys, accounts, store)


def read_keys(path: Path, models: Sequence[ModelConfig]) -> KeyRing:
    """Return the keys of a file, checked against the models' prices.

    Raises:
        DocumentError: If it cannot be used, or a budget in dollars holds for a model that states no
            price: it would never be reached.
    """
    keys = read_key_ring(path)
    unpriced = Prices(models).unpriced
    for tenant in keys.tenants:
        if all(budget.cost_nanousd is None for budget in tenant.limits.budgets):
            continue
        for model in unpriced:
            if tenant.allows(model):
                raise DocumentError(
                    path,
                    f"key {tenant.name!r} has a budget in usd, but model {model!r} has no price; set "
                    "price_input_usd_per_million and price_output_usd_per_million (0: free)",
                )
    return keys


def read_admin_digest(config: RouterConfig) -> bytes | None:
    """Return the SHA-256 of the administrator's key; None where there is none.

    Raises:
        DocumentError: If its file cannot be read or holds no key.
    """
    path = config.governance.admin_key_file
    return None if path is None else digest_of(read_key(path).encode())


def _raise_spent(
    keys: KeyRing, accounts: SharedAccounts, store: UsageStore, unix_seconds: float
) -> None:
    """Take over what the usage file knows, which outlives a crash of the machine."""
    now = Calendar().moment(unix_seconds)
    for tenant in keys.tenants:
        assert tenant.name is not None
        account = accounts.open_account(tenant.name)
        account.raise_spent("day", now, store.spent(tenant.name, since_day=now.day))
        month = first_day_of_month(now.month)
        account.raise_spent("month", now, store.spent(tenant.name, since_day=month))
        account.raise_spent("total", now, store.spent(tenant.name, since_day=0))
