"""A client as the router knows it: its name, the models it may use, its limits."""

from dataclasses import dataclass, field
from typing import Literal

Period = Literal["day", "month", "total"]
NANOUSD_PER_USD = 1_000_000_000
"""Costs are whole billionths of a dollar: sums are exact in whatever order they are added."""


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """What may be used up in one period; one of the two amounts is set."""

    per: Period
    tokens: int | None = None
    cost_nanousd: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for one key over all workers; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budgets: tuple[BudgetLimit, ...] = ()

    @property
    def any_set(self) -> bool:
        """Whether there is anything to count for."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.budgets)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One client."""

    name: str | None
    """As in the file of keys; None where the router has no keys."""
    models: tuple[str, ...] | None = None
    """Names, or beginnings that end in `*`; None: every model."""
    limits: Limits = field(default_factory=Limits)

    def allows(self, model: str) -> bool:
        """Return whether the client may use `model`."""
        if self.models is None:
            return True
        return any(
            model.startswith(each[:-1]) if each.endswith("*") else model == each
            for each in self.models
        )


ANONYMOUS = Tenant(name=None)
"""Everybody, where the router has no keys: every model, no limits."""
