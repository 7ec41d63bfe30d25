"""The section `discovery` of the router's file: replicas that do not stand in it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel
from planner.units import Name
from router.replica_url import HostName, ReplicaUrl

Seconds = Annotated[float, Field(gt=0)]


class DnsSource(StrictModel):
    """The addresses behind one name, such as those of a headless Kubernetes Service."""

    kind: Literal["dns"]
    """What this is."""
    model: Annotated[str, Field(min_length=1)]
    """The model that stands under `models` and is served there."""
    host: HostName
    """The name; every address it has is a replica. It is resolved as by every program of the machine
    (`/etc/hosts`, `/etc/resolv.conf` with its search domains)."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Where replicas answer, on each address; plain HTTP, since a certificate names no address."""
    offer: Name | None = None
    """What they run on, as the planned weights call it."""
    api_key_file: Path | None = None
    """File of the key that is sent to each of them in place of the client's, with checks too."""
    refresh_seconds: Seconds = 5.0
    """Between the beginnings of two lookups: an address that has left gets no request after the first
    answer without it."""
    timeout_seconds: Seconds = 5.0
    """For one lookup. When it fails the addresses found before stay."""

    @property
    def name(self) -> str:
        """Return what the source is called in logs, counters and `/admin/replicas`."""
        return f"dns:{self.host}:{self.port}/{self.model}"


class PlanSource(StrictModel):
    """The file of a planned fleet: its weights, and where its replicas answer."""

    kind: Literal["plan"]
    """What this is."""
    file: Path
    """`plan.json` of `motley plan fleet`, relative to the working directory."""
    addresses: dict[Name, dict[Name, tuple[ReplicaUrl, ...]]] = Field(default_factory=dict)
    """Model to offer to addresses: a plan says how many, not where. Other sources may name them."""

    @property
    def name(self) -> str:
        """Return what the source is called in messages."""
        return f"plan:{self.file}"


Source = Annotated[DnsSource | PlanSource, Field(discriminator="kind")]


class DiscoveryConfig(StrictModel):
    """Where replicas come from besides `models`, and how changes are noticed."""

    sources: tuple[Source, ...] = ()
    """What is asked; all of them add up, with the replicas under `models` and those of commands."""
    state_file: Path | None = None
    """Keeps what `POST` and `DELETE /admin/replicas` have changed beyond a restart. Without it that
    lasts as long as the process; several workers share it either way."""
    watch_seconds: Seconds | None = None
    """How often the router's file and the plans it names are looked at; when one has changed they
    are read again. Without it only SIGHUP and `POST /admin/reload` do that."""
