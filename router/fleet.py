"""Every replica, and which of them may serve a model."""

import time
from collections.abc import Collection, Sequence

from router.base import Candidate
from router.config import ModelConfig
from router.replica import Replica


class Fleet:
    """The replicas of a configuration; a server named under two models is one replica."""

    def __init__(self, models: Sequence[ModelConfig]) -> None:
        self.base_models = tuple(model.name for model in models)
        names: dict[str, set[str]] = {}
        for model in models:
            for replica in model.replicas:
                names.setdefault(replica.url, set()).add(model.name)
        self._replicas = {url: Replica(url, frozenset(served)) for url, served in names.items()}
        self._created_unix_seconds = int(time.time())

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Every replica, in the order of the configuration."""
        return tuple(self._replicas.values())

    def replica(self, url: str) -> Replica:
        """Return the replica at `url`, which must exist."""
        return self._replicas[url]

    def configured(self, base_model: str) -> tuple[Replica, ...]:
        """Return the replicas configured for `base_model`, healthy or not."""
        return tuple(
            each for each in self._replicas.values() if base_model in each.configured_models
        )

    def serving(self, model: str) -> tuple[Replica, ...]:
        """Return the replicas that serve `model`, healthy or not."""
        return tuple(each for each in self._replicas.values() if each.serves(model))

    def knows(self, model: str) -> bool:
        """Return whether some replica serves `model`, healthy or not."""
        return any(each.serves(model) for each in self._replicas.values())

    def candidates(self, model: str, *, excluding: Collection[str]) -> tuple[Candidate, ...]:
        """Return the healthy replicas that serve `model` and are not in `excluding` (URLs)."""
        return tuple(
            Candidate(url=each.url, num_outstanding=each.num_outstanding)
            for each in self._replicas.values()
            if each.is_healthy and each.url not in excluding and each.serves(model)
        )

    def model_entries(self) -> dict[str, dict[str, object]]:
        """Return `/v1/models`' entries by name: the replicas' own, and the configured rest."""
        entries: dict[str, dict[str, object]] = {name: {} for name in self.base_models}
        for each in self._replicas.values():
            for name, entry in each.listed_models.items():
                if not entries.get(name):
                    entries[name] = dict(entry)
        return {name: entry or self._configured_entry(name) for name, entry in entries.items()}

    def _configured_entry(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._created_unix_seconds,
            "owned_by": "motley",
            "root": name,
        }
