"""A supervised vLLM as the endpoint's operations see it."""

from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, generate_latest

from serving.engine_client import OperatedEngine
from serving.errors import RequestError, UnavailableError
from serving.metrics import process_exposition
from serving.vllm_engine.adapters import VllmAdapters
from serving.vllm_engine.supervisor import VllmSupervisor
from serving.vllm_engine.upstream import VllmUpstream


class VllmEngine(OperatedEngine):
    """Its state, its counters and its adapters; requests pass beside it (`proxy.py`)."""

    def __init__(
        self, supervisor: VllmSupervisor, upstream: VllmUpstream, adapters: VllmAdapters
    ) -> None:
        """Speak for a supervised server."""
        self._supervisor = supervisor
        self._upstream = upstream
        self.adapters = adapters
        """What is loaded beside the base model."""
        self.num_broken = 0
        """Answers that broke off after their first byte."""

    @property
    def problem(self) -> str | None:
        """Why requests cannot be served now; None where they can."""
        return self._supervisor.problem

    async def probe(self) -> str | None:
        """Return `problem`, or that the server does not answer its own health check."""
        if self.problem is None and not await self._upstream.is_healthy():
            return "vllm does not answer its health check; see the server's log"
        return self.problem

    async def described(self) -> Mapping[str, object]:
        """Return that it is vLLM, and which; the version is null while it does not answer."""
        return {"engine": "vllm", "engine_version": await self._upstream.version()}

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return self.adapters.names

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load a PEFT folder, and again after each crash."""
        self.check_ready()
        if name in self.adapter_names:
            raise RequestError(
                f"adapter {name!r} is already loaded; unload it first or choose another name",
                param="lora_name",
            )
        await self.adapters.load(name, folder)

    async def replace_adapter(self, name: str, folder: Path) -> None:
        """Load a PEFT folder in place of another of its name; new requests for it wait meanwhile."""
        self.check_ready()
        await self.adapters.replace(name, folder)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        self.check_ready()
        await self.adapters.unload(name)

    async def metrics(self, model_name: str) -> bytes:
        """Return vLLM's counters where it answers, and those of its supervision."""
        registry = CollectorRegistry()
        for name, text, value in (
            ("adapters_lost", "Adapters not loaded again after a crash", self.adapters.num_lost),
            ("broken_answers", "Answers that broke off after their first byte", self.num_broken),
        ):
            counter = Counter(f"motley:{name}", text, ["model_name"], registry=registry)
            counter.labels(model_name).inc(value)
        own = process_exposition(
            model_name, num_restarts=self._supervisor.num_crashes, is_up=self.problem is None
        )
        return await self._upstream.metrics() + own + generate_latest(registry)

    def check_ready(self) -> None:
        """Refuse while requests cannot be served.

        Raises:
            UnavailableError: With the reason.
        """
        if self.problem is not None:
            raise UnavailableError(self.problem)
