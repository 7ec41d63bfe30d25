"""One upstream server and what the router knows of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from router.config import ReplicaConfig
from router.latency import Latency
from router.prefix_tree import PrefixTree

ADAPTER_IN_USE, ADAPTER_LISTED, ADAPTER_LOADABLE = 1.0, 0.8, 0.6
"""How ready a replica is for an adapter; llm-d's steps for active, a free slot, waiting to load."""


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """What its configuration says of a replica's size; None: no limit is known."""

    capacity_tokens: int | None = None
    max_outstanding: int | None = None
    loads_adapters: bool = False
    """Whether it loads an adapter by itself when a request names one."""
    weight: float = 1.0


NO_LIMITS = ReplicaLimits()


def limits_of(entries: Iterable[ReplicaConfig]) -> ReplicaLimits:
    """Return the limits of one server that may stand under several models: the tightest of each."""
    told = tuple(entries)
    return ReplicaLimits(
        capacity_tokens=_least(each.capacity_tokens for each in told),
        max_outstanding=_least(each.max_outstanding for each in told),
        loads_adapters=any(each.loads_adapters for each in told),
        weight=min((each.weight for each in told), default=1.0),
    )


def _least(limits: Iterable[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


class Replica:
    """Health, load and served names of one server; mutable, owned by one event loop."""

    __slots__ = (
        "configured_models",
        "is_draining",
        "is_healthy",
        "latency",
        "limits",
        "listed_models",
        "num_failed_checks",
        "num_outstanding",
        "offers",
        "outstanding_models",
        "outstanding_tokens",
        "prefixes",
        "sources",
        "url",
        "when_idle",
    )

    def __init__(self, url: str, configured_models: frozenset[str]) -> None:
        self.url = url
        self.configured_models = configured_models
        self.limits = NO_LIMITS
        self.offers: Mapping[str, str] = {}
        """Base model → what it runs on, where the model's planned weights name it."""
        self.listed_models: Mapping[str, Mapping[str, object]] = {}
        """What its `/v1/models` last said: name → entry."""
        self.is_healthy = True
        self.num_failed_checks = 0
        """Consecutive."""
        self.num_outstanding = 0
        self.outstanding_tokens = 0
        """Input and expected output of what is outstanding."""
        self.outstanding_models: dict[str, int] = {}
        """Outstanding requests by model or adapter; names without any are not in it."""
        self.latency = Latency()
        self.prefixes = PrefixTree()
        """Of the prompts it was sent; whoever takes it out of service clears them."""
        self.sources: tuple[str, ...] = ()
        """Who named it: `config`, `admin`, or a source of `discovery`."""
        self.is_draining = False
        """Whether it gets no more requests and leaves with the last that runs."""
        self.when_idle: Callable[[], None] = _nothing
        """Called when a request ends on it while it drains and none is left."""

    def serves(self, model: str) -> bool:
        """Return whether `model` is configured for it or listed by it."""
        return model in self.configured_models or model in self.listed_models

    def has_room(self, tokens: int) -> bool:
        """Return whether a request of so many tokens fits beside what is outstanding.

        A replica without any work takes whatever comes: what does not fit now never would.
        """
        limits = self.limits
        if limits.max_outstanding is not None and self.num_outstanding >= limits.max_outstanding:
            return False
        if limits.capacity_tokens is None or not self.num_outstanding:
            return True
        return self.outstanding_tokens + tokens <= limits.capacity_tokens

    def adapter_fit(self, model: str) -> float:
        """Return how ready it is for `model`, which it serves or can load: 1 for its own models."""
        if model in self.configured_models or model in self.outstanding_models:
            return ADAPTER_IN_USE
        return ADAPTER_LISTED if model in self.listed_models else ADAPTER_LOADABLE


class Lease:
    """A request's place on a replica; counted from construction to the first `release`."""

    __slots__ = ("_is_held", "_model", "_tokens", "replica")

    def __init__(self, replica: Replica, *, model: str = "", tokens: int = 0) -> None:
        """Take a place for a request that names `model` and will occupy about `tokens`."""
        self.replica = replica
        self._is_held = True
        self._model = model
        self._tokens = tokens
        replica.num_outstanding += 1
        replica.outstanding_tokens += tokens
        models = replica.outstanding_models
        models[model] = models.get(model, 0) + 1

    def release(self) -> None:
        """Give the place back; further calls do nothing."""
        if not self._is_held:
            return
        self._is_held = False
        replica = self.replica
        replica.num_outstanding -= 1
        replica.outstanding_tokens -= self._tokens
        left = replica.outstanding_models[self._model] - 1
        if left:
            replica.outstanding_models[self._model] = left
        else:
            del replica.outstanding_models[self._model]
        if replica.is_draining and not replica.num_outstanding:
            replica.when_idle()


def _nothing() -> None:
    pass
