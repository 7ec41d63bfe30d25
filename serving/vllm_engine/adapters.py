"""LoRA adapters of vLLM's server: checked, loaded, and loaded again after a crash."""

import json
import logging
from pathlib import Path

from serving.errors import (
    HTTP_ERRORS,
    EngineError,
    NotFoundError,
    RequestError,
    ServingError,
)
from serving.model_words import check_adapter
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

    def __init__(self, upstream: VllmUpstream, first: dict[str, Path]) -> None:
        """Load `first` once the server is ready."""
        self._upstream = upstream
        self._folders = dict(first)
        self._is_fresh = True
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
            EngineError: If vLLM fails at it.
        """
        place = check_adapter(folder)
        await self._send(LOAD, {"lora_name": name, "lora_path": str(place)})
        self._folders[name] = folder
        logger.info("adapter loaded name=%s folder=%s", name, folder)

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
        await self._send(UNLOAD, {"lora_name": name})
        del self._folders[name]
        logger.info("adapter unloaded name=%s", name)

    async def restore(self) -> None:
        """Load all of them into a server that has just started.

        After a crash one that fails is dropped, logged and counted; the first time it is the user's.

        Raises:
            ServingError: The first time, if one fails.
        """
        is_first, self._is_fresh = self._is_fresh, False
        for name, folder in list(self._folders.items()):
            try:
                await self.load(name, folder)
            except ServingError as error:
                if is_first:
                    raise
                del self._folders[name]
                self.num_lost += 1
                logger.error("adapter lost name=%s folder=%s error=%s", name, folder, error)

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
