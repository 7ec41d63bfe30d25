"""One upstream server and what the router knows of it."""

from collections.abc import Callable, Mapping


class Replica:
    """Health, load and served names of one server; mutable, owned by one event loop."""

    __slots__ = (
        "configured_models",
        "is_draining",
        "is_healthy",
        "listed_models",
        "num_failed_checks",
        "num_outstanding",
        "offers",
        "sources",
        "url",
        "when_idle",
    )

    def __init__(self, url: str, configured_models: frozenset[str]) -> None:
        self.url = url
        self.configured_models = configured_models
        self.listed_models: Mapping[str, Mapping[str, object]] = {}
        """What its `/v1/models` last said: name → entry."""
        self.is_healthy = True
        self.num_failed_checks = 0
        """Consecutive."""
        self.num_outstanding = 0
        self.offers: Mapping[str, str] = {}
        """Base model → what it runs on, where the model's planned weights name it."""
        self.sources: tuple[str, ...] = ()
        """Who named it: `config`, `admin`, or a source of `discovery`."""
        self.is_draining = False
        """Whether it gets no more requests and leaves with the last that runs."""
        self.when_idle: Callable[[], None] = _nothing
        """Called when a request ends on it while it drains and none is left."""

    def serves(self, model: str) -> bool:
        """Return whether `model` is configured for it or listed by it."""
        return model in self.configured_models or model in self.listed_models


class Lease:
    """A request's place on a replica; counted from construction to the first `release`."""

    __slots__ = ("_is_held", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._is_held = True
        replica.num_outstanding += 1

    def release(self) -> None:
        """Give the place back; further calls do nothing."""
        if not self._is_held:
            return
        self._is_held = False
        replica = self.replica
        replica.num_outstanding -= 1
        if replica.is_draining and not replica.num_outstanding:
            replica.when_idle()


def _nothing() -> None:
    pass
