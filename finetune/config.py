"""The job file of `motley finetune run`: one base model, one adapter, clients with their text."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.loopback import is_loopback

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A name that is safe in file names, log lines and URLs."""


class JsonlData(StrictModel):
    """Text in a JSON lines file, one document a line."""

    kind: Literal["jsonl"]
    """Chooses this kind."""
    path: Path
    """The file. Each line holds `{"text": ...}`, or `{"messages": [...]}`, which the base model's
    chat template renders. A relative path starts at the working directory."""


class PackageData(StrictModel):
    """The Python source files of an installed package, for examples that must run offline."""

    kind: Literal["package"]
    """Chooses this kind."""
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Top-level import name. The package is read, not imported."""


ClientData = Annotated[JsonlData | PackageData, Field(discriminator="kind")]


class ClientConfig(StrictModel):
    """One participant: its text never leaves it, only its adapter does."""

    name: Name
    """Unique in the job; labels the client's losses. Decides, with the seed, its batches."""
    data: ClientData
    """Where its text is."""


class DeploymentConfig(StrictModel):
    """Where a job's server and clients meet, for `motley finetune server` and `client`."""

    address: str = Field(pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")
    """Host and port at which clients reach the server, such as `fl.example.org:9443`."""
    listen: str | None = Field(default=None, pattern=r"^[0-9A-Za-z.:-]+$")
    """Address of this machine that the server binds; by default the loopback address of an
    `address` on loopback, and otherwise 0.0.0.0. The port is `address`'s."""
    certificates: Path
    """Folder of `motley finetune certs`. The server needs `ca.crt`, `server.*` and
    `clients/*.pub` of it, a client `ca.crt` and its own `clients/NAME.key`. A relative path starts
    at the working directory."""
    min_clients: int | None = Field(default=None, gt=0)
    """Connected clients that the first round waits for; by default all of the job's."""
    wait_seconds: float = Field(default=600.0, gt=0, le=7 * 86400)
    """How long it waits for them before the job fails."""
    answer_seconds: float = Field(default=1800.0, gt=0, le=7 * 86400)
    """How long a client may take to train or judge; later answers do not count."""

    @property
    def host(self) -> str:
        """Host of `address`, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port of `address`."""
        return int(self.address.rpartition(":")[2])

    @property
    def bind_host(self) -> str:
        """Address that the server binds."""
        if self.listen is not None:
            return self.listen
        if not is_loopback(self.host):
            return "0.0.0.0"
        return "127.0.0.1" if self.host == "localhost" else self.host

    @model_validator(mode="after")
    def _port_exists(self) -> Self:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"address: port {self.port} does not exist; give 1 to 65535")
        return self


class JobConfig(StrictModel):
    """A federated LoRA job."""

    schema_version: Literal[1]
    """Version of this file's form."""
    name: Name
    """Name of the job, recorded with the adapter."""
    model: str = Field(min_length=1)
    """Base model: a local folder, or the id of a model on the Hugging Face hub."""
    rank: int = Field(gt=0, le=1024)
    """Rank of both LoRA factors."""
    alpha: float = Field(gt=0)
    """LoRA's alpha; the product of the factors is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = Field(min_length=1)
    """Names of the linear layers that get an adapter, such as `q_proj`; a suffix after a dot."""
    rounds: int = Field(gt=0)
    """Times the clients train and the server aggregates."""
    local_steps: int = Field(gt=0)
    """Optimiser steps of each client in each round."""
    batch_size: int = Field(gt=0)
    """Sequences of one step."""
    sequence_tokens: int = Field(gt=1)
    """Tokens of one training sequence."""
    learning_rate: float = Field(gt=0)
    """AdamW's rate, constant; its moments start anew in each round."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Decides the adapter's first weights and every batch."""
    held_out_fraction: float = Field(gt=0, lt=1)
    """Share of each client's documents kept out of training, chosen whole by the hash of their
    text; at least one document each way."""
    held_out_tokens: int = Field(default=16384, gt=1)
    """Most held-out tokens of one client that are scored, spread evenly over its held-out text."""
    output: Path
    """Run folder: checkpoint, metrics, and at the end the adapter. A relative path starts at the
    working directory."""
    clients: tuple[ClientConfig, ...] = Field(min_length=1)
    """The participants."""
    deployment: DeploymentConfig | None = None
    """Where they meet, if they are on several machines."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for where, names in (
            ("clients", [client.name for client in self.clients]),
            ("target_modules", self.target_modules),
        ):
            name, count = Counter(names).most_common(1)[0]
            if count > 1:
                raise ValueError(f"{where}: {name!r} stands {count} times; give it once")
        return self
