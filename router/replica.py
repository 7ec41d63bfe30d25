"""One upstream server and what the router knows of it."""

from collections.abc import Mapping


class Replica:
    """Health, load and served names of one server; mutable, owned by one event loop."""

    __slots__ = (
        "configured_models",
        "is_healthy",
        "listed_models",
        "num_failed_checks",
        "num_outstanding",
        "url",
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
        if self._is_held:
            self._is_held = False
            self.replica.num_outstanding -= 1
