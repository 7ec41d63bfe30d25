"""Loaded adapters by name: each has a number that no other ever has, which tells its pages apart."""

import logging
from collections.abc import Callable
from pathlib import Path

from serving.engine.adapters import Adapter
from serving.errors import NotFoundError, RequestError

logger = logging.getLogger(__name__)


class AdapterTable:
    """Adapters of one target. A request keeps what it found when it came, whatever changes here."""

    def __init__(self, read: Callable[[Path], Adapter]) -> None:
        """Start without adapters; `read` reads a folder for the target."""
        self._read = read
        self._loaded: dict[str, tuple[int, Adapter]] = {}
        self._num_loaded = 0

    @property
    def names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return sorted(self._loaded)

    def load(self, name: str, folder: Path) -> None:
        """Load a LoRA folder under a name that is free.

        Raises:
            AdapterError: If it does not fit.
            RequestError: If the name is taken.
        """
        if name in self._loaded:
            raise RequestError(
                f"adapter {name!r} is already loaded; unload it first or choose another name",
                param="lora_name",
            )
        self.replace(name, folder)

    def replace(self, name: str, folder: Path) -> None:
        """Load a LoRA folder under a name, in place of what has that name, if anything has.

        Raises:
            AdapterError: If it does not fit; then all stays as it was.
        """
        adapter = self._read(folder)
        self._num_loaded += 1
        self._loaded[name] = self._num_loaded, adapter
        logger.info("adapter loaded name=%s folder=%s", name, folder)

    def unload(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            NotFoundError: If there is none of that name.
        """
        self._known(name, "lora_name")
        del self._loaded[name]
        logger.info("adapter unloaded name=%s", name)

    def find(self, name: str | None) -> tuple[int, Adapter | None]:
        """Return an adapter's number and itself; the base model's number is 0.

        Raises:
            NotFoundError: If there is none of that name.
        """
        return (0, None) if name is None else self._known(name, "model")

    def _known(self, name: str, param: str) -> tuple[int, Adapter]:
        found = self._loaded.get(name)
        if found is None:
            raise NotFoundError(f"no adapter {name!r} is loaded; loaded: {self.names}", param=param)
        return found
