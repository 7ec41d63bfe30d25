"""LoRA adapters of vLLM's server: checked, loaded, and loaded again after a crash."""

import asyncio
import json
import logging
from contextlib import suppress
from pathlib import Path

from serving.adapter_folder import BaseDigest, check_adapter
from serving.errors import (
    HTTP_ERRORS,
    EngineError,
    NotFoundError,
    RequestError,
    ServingError,
    SlowRequestError,
    UnavailableError,
)
from serving.vllm_engine.upstream import VllmUpstream

logger = logging.getLogger(__name__)

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"

_BY_STATUS: dict[int, type[ServingError]] = {
    status: kind
    for kind, (status, _) in HTTP_ERRORS.items()
    if kind in (RequestError, NotFoundError, EngineError)
}


class VllmAdapters:
    """What is loaded, by name; survives the server's process."""

    def __init__(
        self,
        upstream: VllmUpstream,
        first: dict[str, Path],
        *,
        base_digest: BaseDigest | None = None,
    ) -> None:
        """Load `first` once the server is ready.

        Args:
            upstream: The way to the server.
            first: Folders by name.
            base_digest: Gives what adapters' manifests are compared with; None compares nothing.
        """
        self._upstream = upstream
        self._folders = dict(first)
        self._base_digest = base_digest
        self._changing = asyncio.Lock()
        self._settled = asyncio.Event()
        self._settled.set()
        self._is_fresh = True
        self.num_swaps = 0
        """Adapters replaced, or about to be: a name may have been missing for a moment in each."""
        self.listing: bytes | None = None
        """vLLM's list of models from before the swap that runs; None while none does."""
        self.num_lost = 0
        """Adapters that did not load again after a crash."""

    @property
    def names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return sorted(self._folders)

    async def load(self, name: str, folder: Path) -> None:
        """Load a PEFT folder under `name`.

        Raises:
            AdapterError: If it is no PEFT folder with safetensors.
            RequestError: If vLLM refuses it.
            SlowRequestError: If vLLM takes too long.
            EngineError: If vLLM fails at it.
        """
        place = await self._checked(folder)
        async with self._changing:
            await self._put(name, place, before=None)
        logger.info("adapter loaded name=%s folder=%s", name, folder)

    async def replace(self, name: str, folder: Path) -> None:
        """Load a PEFT folder in place of what has that name, which stays where the new one fails.

        vLLM's own `load_inplace` would change the weights under requests that run. Unloaded, an
        adapter serves them to their end; new ones do not find it until the next has its name.

        Raises:
            AdapterError: If it is no PEFT folder with safetensors.
            RequestError: If vLLM refuses it.
            SlowRequestError: If vLLM takes too long.
            EngineError: If vLLM fails at it.
        """
        place = await self._checked(folder)
        async with self._changing:
            before = self._folders.get(name)
            if before is not None:
                self.listing = await self._upstream.models()
                self.num_swaps += 1
                self._settled.clear()
            try:
                await self._put(name, place, before=before)
            finally:
                self.listing = None
                self._settled.set()
        logger.info("adapter replaced name=%s folder=%s", name, folder)

    @property
    def is_settled(self) -> bool:
        """Whether no adapter is being replaced."""
        return self._settled.is_set()

    async def settled(self) -> None:
        """Return once no adapter is being replaced."""
        await self._settled.wait()

    async def unload(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            NotFoundError: If there is none of that name.
            EngineError: If vLLM fails at it.
        """
        if name not in self._folders:
            raise NotFoundError(
                f"no adapter {name!r} is loaded; loaded: {self.names}", param="lora_name"
            )
        async with self._changing:
            await self._free(name)
            del self._folders[name]
        logger.info("adapter unloaded name=%s", name)

    async def restore(self) -> None:
        """Load all of them into a server that has just started.

        After a crash one that fails is dropped, logged and counted; the first time it is the user's.

        Raises:
            UnavailableError: If the server ends meanwhile; no adapter is to blame, none is dropped.
            ServingError: The first time, if one fails.
        """
        is_first, self._is_fresh = self._is_fresh, False
        for name, folder in list(self._folders.items()):
            try:
                await self.load(name, folder)
            except UnavailableError:
                raise
            except ServingError as error:
                if is_first:
                    raise
                self._folders.pop(name, None)
                self.num_lost += 1
                logger.error("adapter lost name=%s folder=%s error=%s", name, folder, error)

    async def _put(self, name: str, place: Path, *, before: Path | None) -> None:
        """Give a name to a folder in place of `before`; where that fails, all is as it was."""
        try:
            if before is not None:
                await self._free(name)
            await self._load(name, place)
        except ServingError:
            await self._bring_back(name, before)
            raise
        self._folders[name] = place

    async def _bring_back(self, name: str, before: Path | None) -> None:
        """Have the server forget what failed, and load what was there before.

        vLLM takes what concerns one name in turn: after a load that took too long both wait until
        it is over, and are done then even where nobody waits for them.
        """
        try:
            with suppress(SlowRequestError):
                await self._free(name)
            if before is not None:
                await self._load(name, before)
        except (SlowRequestError, UnavailableError) as error:
            logger.warning("adapter settles later name=%s error=%s", name, error)
        except ServingError as error:
            self._folders.pop(name, None)
            self.num_lost += before is not None
            logger.error("adapter lost name=%s folder=%s error=%s", name, before, error)

    async def _free(self, name: str) -> None:
        """Unload what has a name, if anything has."""
        with suppress(NotFoundError):
            await self._send(UNLOAD, {"lora_name": name})

    async def _load(self, name: str, place: Path) -> None:
        await self._send(LOAD, {"lora_name": name, "lora_path": str(place)})

    async def _checked(self, folder: Path) -> Path:
        """Return the absolute path of a folder that is an adapter."""

        def work() -> Path:
            check_adapter(folder, base=self._base_digest)
            return folder.resolve()

        return await asyncio.to_thread(work)

    async def _send(self, path: str, body: dict[str, str]) -> None:
        status, content = await self._upstream.post_adapter(path, body)
        if status != 200:
            raise _BY_STATUS.get(status, EngineError)(f"vllm refuses: {_message(content)}")


def _message(content: bytes) -> str:
    try:
        error = json.loads(content)
        error = error.get("error", error)
        return " ".join(str(error["message"]).split())[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(content.decode(errors="replace").split())[:300] or "no reason given"
