"""What the endpoint knows of an engine, wherever that runs: a thread, a process, another server."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from serving.engine.reading import Reading, ReadRequest
from serving.engine.sequence import GenerationOutput, GenerationRequest


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What stays the same once the model is loaded."""

    context_tokens: int
    """Longest sequence, prompt and answer together."""
    vocabulary_size: int
    """Token ids the model knows."""
    eos_ids: frozenset[int]
    """Tokens that end a text."""
    guarantee: str
    """How exactly greedy output is the target's own, as the start-up test found."""
    name: str = "motley"
    """What `/version` calls the engine."""
    details: Mapping[str, object] = field(default_factory=dict)
    """What `/version` says beside that."""


class OperatedEngine(Protocol):
    """What operators, probes and routers ask of any engine, at any time of its life."""

    @property
    def problem(self) -> str | None:
        """Why requests cannot be served now (loading, restarting, draining); None where they can."""

    async def probe(self) -> str | None:
        """Return what `/health` is told: `problem`, or what asking the engine itself brings up."""
        return self.problem

    async def described(self) -> Mapping[str, object]:
        """Return what `/version` says of it.

        Raises:
            UnavailableError: While that is not known yet.
        """

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters, sorted."""

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder between two steps.

        Raises:
            AdapterError: If it does not fit.
            RequestError: If the name is taken.
        """

    async def replace_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder under `name`, in place of what has that name; a misfit changes nothing.

        Requests that run finish with what they began with, and none finds the name missing.

        Raises:
            AdapterError: If it does not fit.
        """

    async def unload_adapter(self, name: str) -> None:
        """Forget a LoRA adapter; requests that run with it finish with it.

        Raises:
            NotFoundError: If there is none of that name.
        """

    async def metrics(self, model_name: str) -> bytes:
        """Return the engine's own counters in Prometheus's text format; empty while there is none."""


class EngineClient(OperatedEngine, Protocol):
    """An engine that takes tokens and gives tokens, as the endpoint's event loop sees it."""

    @property
    def facts(self) -> EngineFacts:
        """What is fixed about the model.

        Raises:
            UnavailableError: While it has not been loaded yet.
        """

    async def described(self) -> Mapping[str, object]:
        """Return name, guarantee and details."""
        facts = self.facts
        return {"engine": facts.name, "guarantee": facts.guarantee, **facts.details}

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput]:
        """Yield a request's outputs as they come; leaving the iterator aborts the request.

        Raises:
            RequestError: If the request cannot be served as asked.
            OverloadedError: If the queue is full.
            SlowRequestError: If it takes longer than it may.
            UnavailableError: If the engine cannot be reached now, or ends meanwhile.
            EngineError: If the engine fails at this request.
        """

    async def read(self, request: ReadRequest) -> Reading:
        """Return what the target makes of a whole text, without answering it.

        Raises:
            ContextLengthError: If the text does not fit.
            OverloadedError: If the KV memory has no room now.
            SlowRequestError: If it takes longer than it may.
            UnsupportedError: If the engine has no model that could read.
            UnavailableError: If the engine cannot be reached now, or ends meanwhile.
        """
