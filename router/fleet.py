"""Every replica, and which of them may serve a model.

The fleet changes while requests run. A replica is *admitted*, serves, is *drained* (no new requests;
those that run finish) and *removed* when the last has ended. One that is admitted again while it
drains simply stays.

A replica may take a request if it passes the filters, in this order: it serves the model or loads the
adapter by itself, is healthy, is not yet tried for this request, and has room.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Literal

from router.base import NO_DEMAND, Candidate, Demand
from router.config import ModelConfig
from router.discovery.member import Member, configured_members, stations
from router.replica import Replica, limits_of

Filter = Literal["model", "health", "untried", "room"]

logger = logging.getLogger(__name__)


class Fleet:
    """The replicas that belong; a server named under two models is one replica."""

    def __init__(
        self,
        models: Sequence[ModelConfig] = (),
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the replicas of a file, taken for healthy until they have been checked."""
        self._monotonic = monotonic
        self._replicas: dict[str, Replica] = {}
        self._to_tell: list[Callable[[Replica], None]] = []
        self._created_unix_seconds = int(time.time())
        self.base_models: tuple[str, ...] = tuple(model.name for model in models)
        """Names of the models of the file."""
        for replica in self.admit(configured_members(models)):
            replica.is_healthy = True

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Every replica in the order of arrival, those that drain included."""
        return tuple(self._replicas.values())

    def replica(self, url: str) -> Replica:
        """Return the replica at `url`, which must exist."""
        return self._replicas[url]

    def find(self, url: str) -> Replica | None:
        """Return the replica at `url`, or None where there is none (any more)."""
        return self._replicas.get(url)

    def admit(self, members: Sequence[Member]) -> tuple[Replica, ...]:
        """Take in all `members` and return the new ones, out of service until checked.

        Those that are there already get what the members say of them now and, if they drain, stay;
        replicas without a member are left as they are.
        """
        new = []
        for url, station in stations(members).items():
            replica = self._replicas.get(url)
            if replica is None:
                replica = self._replicas[url] = Replica(url, frozenset())
                replica.is_healthy = False
                new.append(replica)
            if replica.is_draining:
                replica.is_draining = False
                logger.info("replica stays url=%s", url)
            replica.configured_models = frozenset(station.models)
            replica.offers = station.offers
            replica.limits = limits_of(station.models.values())
            replica.sources = tuple(station.sources)
        return tuple(new)

    def drain(self, urls: Iterable[str]) -> None:
        """Send no more requests there; each replica is removed when none runs on it."""
        for url in urls:
            replica = self._replicas.get(url)
            if replica is None or replica.is_draining:
                continue
            replica.is_draining = True
            logger.info("replica drains url=%s num_outstanding=%d", url, replica.num_outstanding)
            replica.when_idle = partial(self._remove, replica)
            if not replica.num_outstanding:
                replica.when_idle()

    def when_removed(self, told: Callable[[Replica], None]) -> None:
        """Have `told` called with each replica that has left."""
        self._to_tell.append(told)

    def configured(self, base_model: str) -> tuple[Replica, ...]:
        """Return the replicas that belong to `base_model`, healthy or not."""
        return tuple(
            each
            for each in self._replicas.values()
            if base_model in each.configured_models and not each.is_draining
        )

    def serving(self, model: str) -> tuple[Replica, ...]:
        """Return the replicas that serve `model`, healthy or not."""
        return tuple(
            each for each in self._replicas.values() if each.serves(model) and not each.is_draining
        )

    def knows(self, model: str) -> bool:
        """Return whether the file names `model`, or some replica serves it, healthy or not."""
        return model in self.base_models or any(
            each.serves(model) and not each.is_draining for each in self._replicas.values()
        )

    def candidates(
        self, model: str, *, excluding: Collection[str], demand: Demand = NO_DEMAND
    ) -> tuple[Candidate, ...]:
        """Return the replicas that may take a request for `model` and are not in `excluding` (URLs).

        Their prefixes are compared with `demand.blocks`, and `demand.tokens` must find room.
        """
        now = self._monotonic()
        return tuple(
            [
                _candidate(each, model, demand, now)
                for each in self._able(model)
                if each.is_healthy and each.url not in excluding and each.has_room(demand.tokens)
            ]
        )

    def emptied_by(
        self, model: str, *, excluding: Collection[str], demand: Demand = NO_DEMAND
    ) -> Filter:
        """Return the filter that left no candidate, where `candidates` has returned none."""
        able = self._able(model)
        if not able:
            return "model"
        healthy = [each for each in able if each.is_healthy]
        if not healthy:
            return "health"
        return "untried" if all(each.url in excluding for each in healthy) else "room"

    def _able(self, model: str) -> list[Replica]:
        """Return the replicas that serve `model`, or load it by themselves where others list it."""
        replicas = [each for each in self._replicas.values() if not each.is_draining]
        able = [each for each in replicas if each.serves(model)]
        if model in self.base_models or not any(each.limits.loads_adapters for each in replicas):
            return able
        parents = {each.listed_models.get(model, {}).get("parent") for each in able}
        return able + [
            each
            for each in replicas
            if each.limits.loads_adapters
            and not each.serves(model)
            and not parents.isdisjoint(each.configured_models)
        ]

    def model_entries(self) -> dict[str, dict[str, object]]:
        """Return `/v1/models`' entries by name: the replicas' own, and the configured rest."""
        entries: dict[str, dict[str, object]] = {name: {} for name in self.base_models}
        for each in self._replicas.values():
            if each.is_draining:
                continue
            for name, entry in each.listed_models.items():
                if not entries.get(name):
                    entries[name] = dict(entry)
        return {name: entry or self._configured_entry(name) for name, entry in entries.items()}

    def _remove(self, replica: Replica) -> None:
        del self._replicas[replica.url]
        replica.when_idle = _left
        logger.info("replica removed url=%s", replica.url)
        for told in self._to_tell:
            told(replica)

    def _configured_entry(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._created_unix_seconds,
            "owned_by": "motley",
            "root": name,
        }


def _left() -> None:
    """Do nothing: requests that end on a removed replica concern nobody."""


def _candidate(replica: Replica, model: str, demand: Demand, now: float) -> Candidate:
    limits = replica.limits
    num_held = replica.prefixes.match(demand.blocks.hashes)
    return Candidate(
        replica.url,
        replica.num_outstanding,
        replica.offers.get(model),
        replica.outstanding_tokens,
        limits.capacity_tokens,
        demand.blocks.fraction(num_held),
        replica.adapter_fit(model),
        replica.latency.expected_seconds(demand.output_tokens, now=now),
        limits.weight,
    )
