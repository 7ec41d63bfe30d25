"""Who belongs to the fleet: what every source of replicas says, in one form."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from router.config import ModelConfig, ReplicaConfig

CONFIG = "config"
"""The source of replicas that stand under their model in the router's file."""
ADMIN = "admin"
"""The source of replicas that were added by a command."""


@dataclass(frozen=True, slots=True)
class Member:
    """One replica as a server of one model."""

    model: str
    """The base model it serves."""
    replica: ReplicaConfig
    """Its address and settings."""
    source: str
    """Who named it: `config`, `admin`, or a source of `discovery`."""


@dataclass(slots=True)
class Station:
    """What all members of one address say together."""

    models: dict[str, ReplicaConfig] = field(default_factory=dict)
    """Base model to the settings under it."""
    sources: list[str] = field(default_factory=list)
    """Who named the address, each once."""

    @property
    def offers(self) -> Mapping[str, str]:
        """Base model to what the replica runs on, where that is known."""
        return {model: each.offer for model, each in self.models.items() if each.offer is not None}


def configured_members(models: Iterable[ModelConfig]) -> tuple[Member, ...]:
    """Return the replicas of a file, in its order."""
    return tuple(
        Member(model.name, replica, CONFIG) for model in models for replica in model.replicas
    )


def stations(members: Sequence[Member]) -> dict[str, Station]:
    """Return the members by address; who names a model there first, says how it is served."""
    found: dict[str, Station] = {}
    for member in members:
        station = found.setdefault(member.replica.url, Station())
        station.models.setdefault(member.model, member.replica)
        if member.source not in station.sources:
            station.sources.append(member.source)
    return found
