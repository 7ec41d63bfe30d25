"""The YAML file of `motley route`."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, ByteSize, Field, model_validator

from planner.config import StrictModel
from planner.units import Count, Name, Tokens
from router.facts import ModelFacts
from router.minions.config import MinionsConfig


def _replica_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST")
    if parts.query or parts.fragment:
        raise ValueError("must carry no query and no fragment; remove them")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("must not end in /v1; the router adds it")
    _ = parts.port  # raises ValueError when it is no number up to 65535
    return url.rstrip("/")


Seconds = Annotated[float, Field(gt=0)]


class ReplicaConfig(StrictModel):
    """One server that speaks OpenAI's HTTP API."""

    url: Annotated[str, AfterValidator(_replica_url)]
    """Its address without `/v1`, such as `http://127.0.0.1:8001`."""
    offer: Name | None = None
    """What it runs on, as the planned weights call it; needed where the model has weights."""


class OfferWeights(StrictModel):
    """Where the requests of one range of input sizes go."""

    input_tokens_up_to: Tokens
    """Longest input of the range, which begins where the one before it ends; still longer inputs
    belong to the last range."""
    weights: Annotated[dict[Name, Count], Field(min_length=1)]
    """Offer to its share of these requests, relative to the others'; at least one above 0."""


class ModelConfig(ModelFacts):
    """One model, the replicas that serve it, and the facts that goals are judged by."""

    name: Annotated[str, Field(min_length=1)]
    """The name clients send and the replicas serve it under; the body is forwarded unchanged."""
    replicas: Annotated[tuple[ReplicaConfig, ...], Field(min_length=1)]
    """At least one; a server that serves several models may stand under each of them."""
    weights: tuple[OfferWeights, ...] = ()
    """By input size, rising, as `motley plan render` writes them. Without any, each request goes to
    the replica with the fewest outstanding."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not self.weights:
            return self
        for place, replica in enumerate(self.replicas):
            if replica.offer is None:
                raise ValueError(f"replicas.{place}.offer: is required beside weights; add it")
        for before, after in pairwise(row.input_tokens_up_to for row in self.weights):
            if after <= before:
                raise ValueError(f"weights: {after} tokens follow {before}; sort the ranges")
        offers = {replica.offer for replica in self.replicas}
        for place, row in enumerate(self.weights):
            for offer in row.weights:
                if offer not in offers:
                    raise ValueError(
                        f"weights.{place}: no replica is of offer {offer!r}; name one of: "
                        f"{', '.join(sorted(filter(None, offers)))}"
                    )
            if not sum(row.weights.values()):
                raise ValueError(f"weights.{place}: every weight is 0; give at least one above 0")
        return self


class HealthConfig(StrictModel):
    """Active checks: `GET /health`, then `GET /v1/models`, on every replica."""

    interval_seconds: Seconds = 5.0
    """Between two checks of one replica; also how soon an adapter loaded elsewhere is noticed."""
    timeout_seconds: Seconds = 5.0
    """How long each of the two requests may take, and `GET /admin/adapters` before an upload."""
    failures_to_unhealthy: Annotated[int, Field(ge=1)] = 2
    """Consecutive failed checks before a replica gets no more requests; one success heals it. A
    request that fails marks its replica at once, and the next check decides."""
    api_key_file: Path | None = None
    """File of the key that is sent with the checks. Replicas that ask for keys list their adapters
    to nobody else. Requests of clients carry the clients' own keys, whatever stands here."""


class RetryConfig(StrictModel):
    """What happens before the first byte has gone to the client; afterwards nothing is retried."""

    max_attempts: Annotated[int, Field(ge=1)] = 3
    """Replicas tried for one request, the first included; never the same one twice."""


class TimeoutsConfig(StrictModel):
    """How long the router waits for a replica, and for its own streams when it stops."""

    connect_seconds: Seconds = 2.0
    """To open a connection."""
    first_byte_seconds: Seconds = 600.0
    """From sending the request to the first byte of a stream, or to the whole of an answer that is
    not streamed: queueing and, without streaming, all of the decoding fall into it."""
    idle_seconds: Seconds = 300.0
    """Between two pieces of a running stream."""
    shutdown_seconds: Annotated[int, Field(ge=1)] = 30
    """After SIGTERM or SIGINT, for running requests to finish."""


class RouterConfig(StrictModel):
    """A router: where it listens, and what stands behind it."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and the `listening` line names it."""
    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    """What is served. Adapters the replicas list are served too, without an entry."""
    health: HealthConfig = HealthConfig()
    """Active health checks."""
    retry: RetryConfig = RetryConfig()
    """Retries on other replicas."""
    minions: MinionsConfig = MinionsConfig()
    """Virtual models in which a local model reads for a remote one."""
    timeouts: TimeoutsConfig = TimeoutsConfig()
    """Time limits."""
    traffic_log: Path | None = None
    """File that gets one JSON line a request, appended; relative to the working directory. Without
    it no line is written."""
    max_body_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(32 * 2**20)
    """Largest request body, such as `32MiB`; larger ones are answered 413."""

    max_upload_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(2 * 2**30)
    """Largest adapter on its way to the replicas; kept on disk meanwhile."""
    spool_folder: Path | None = None
    """Where; without it the system's folder for temporary files (TMPDIR), which some systems keep
    in memory: then name one on disk."""

    @model_validator(mode="after")
    def _check_names(self) -> "RouterConfig":
        names = [model.name for model in self.models]
        for index, model in enumerate(self.models):
            if model.name in names[:index]:
                raise ValueError(f"models.{index}.name: {model.name!r} appears twice; merge them")
            urls = [replica.url for replica in model.replicas]
            for place, url in enumerate(urls):
                if url in urls[:place]:
                    where = f"models.{index}.replicas.{place}.url"
                    raise ValueError(f"{where}: {url!r} appears twice; remove one")
        return self
