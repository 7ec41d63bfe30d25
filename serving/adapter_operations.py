"""Adapters over HTTP, of every engine: loaded by path or sent, replaced, listed, unloaded."""

import asyncio
import logging
import re

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from serving.adapter_folder import AdapterFacts, check_rank
from serving.adapter_roots import AdapterRoots
from serving.adapter_store import AdapterStore, discard, naming
from serving.engine_client import OperatedEngine
from serving.errors import RequestError, UnavailableError
from serving.http_requests import read_body
from serving.openai_api import ADAPTER_NAME, AdapterBody, AdapterNameBody

logger = logging.getLogger(__name__)


class AdapterOperations:
    """The handlers, over one engine."""

    def __init__(
        self, engine: OperatedEngine, model_name: str, roots: AdapterRoots, store: AdapterStore
    ) -> None:
        """Serve `engine`, whose base model is called `model_name`."""
        self._engine = engine
        self._model_name = model_name
        self._roots = roots
        self._store = store
        self._loading = asyncio.Lock()

    def add_routes(self, app: FastAPI) -> None:
        """Add the paths to an application."""
        for method, path, handler in (
            ("POST", "/v1/load_lora_adapter", self.load),
            ("POST", "/v1/unload_lora_adapter", self.unload),
            ("GET", "/admin/adapters", self.list_all),
            ("POST", "/admin/adapters/{name:path}", self.upload),
            ("DELETE", "/admin/adapters/{name:path}", self.remove),
        ):
            app.add_api_route(path, handler, methods=[method], response_model=None)

    async def load(self, request: Request) -> Response:
        """Load a folder of this machine under a name that is free."""
        body = await read_body(request, AdapterBody)
        self._check_name(body.lora_name, "lora_name")
        folder = self._roots.resolve(body.lora_path)
        await asyncio.to_thread(check_rank, folder, self._store.most_rank)
        async with self._loading:
            await self._engine.load_adapter(body.lora_name, folder)
            unused = self._store.forget(body.lora_name)  # an upload that the engine has lost
        if unused is not None:
            await discard(unused)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """Forget an adapter, vLLM's way."""
        body = await read_body(request, AdapterNameBody)
        await self._unload(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def upload(self, request: Request, name: str) -> Response:
        """Load the files of the body, in place of what answers under the name, if anything does."""
        self._check_name(name, "name")
        if self._engine.problem is not None:  # before gigabytes are taken in vain
            raise UnavailableError(self._engine.problem)
        folder, facts = await self._store.receive(request, name)
        try:
            async with self._loading:
                is_replaced = name in self._engine.adapter_names
                with naming(folder, name):
                    await self._engine.replace_adapter(name, folder)
                unused = self._store.keep(name, folder, facts)
        except BaseException:
            await discard(folder)
            raise
        if unused is not None:
            await discard(unused)
        assert facts.manifest is not None, "uploads need one"
        logger.info(
            "adapter uploaded name=%s job=%s rank=%d replaced=%s sha256=%s",
            name,
            facts.manifest.job,
            facts.rank,
            is_replaced,
            facts.manifest.adapter_sha256,
        )
        return JSONResponse(_card(name, facts) | {"replaced": is_replaced})

    async def remove(self, name: str) -> Response:
        """Forget an adapter."""
        await self._unload(name)
        return JSONResponse({"id": name, "object": "adapter", "deleted": True})

    async def list_all(self) -> Response:
        """Say what is loaded, and how much may be sent."""
        names = self._engine.adapter_names
        cards = [_card(name, self._store.facts(name)) for name in names]
        content = {"object": "list", "data": cards, "max_upload_bytes": self._store.most_bytes}
        return JSONResponse(content)

    async def _unload(self, name: str) -> None:
        async with self._loading:
            await self._engine.unload_adapter(name)
            unused = self._store.forget(name)
        if unused is not None:
            await discard(unused)

    def _check_name(self, name: str, param: str) -> None:
        if not re.fullmatch(ADAPTER_NAME, name) or len(name) > 256:
            raise RequestError(
                f"{param} {name[:80]!r} is no model name; use up to 256 printable ASCII letters "
                "without white space",
                param=param,
            )
        if name == self._model_name:
            raise RequestError(
                f"{param} {name!r} is the base model's name; choose another", param=param
            )


def _card(name: str, facts: AdapterFacts | None) -> dict[str, object]:
    """Return what is told of an adapter; of one loaded by its path only the name is known."""
    manifest = None if facts is None else facts.manifest
    return {
        "id": name,
        "object": "adapter",
        "rank": None if facts is None else facts.rank,
        "job": None if manifest is None else manifest.job,
        "adapter_sha256": None if manifest is None else manifest.adapter_sha256,
        "base_weights_sha256": None if manifest is None else manifest.base_weights_sha256,
    }
