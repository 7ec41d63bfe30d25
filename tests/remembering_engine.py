"""An engine of adapters alone."""

from pathlib import Path

from serving.engine_client import OperatedEngine
from serving.errors import NotFoundError, ServingError


class RememberingEngine(OperatedEngine):
    """Has adapters by name; reads nothing of them."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.refusal: ServingError | None = None

    @property
    def adapter_names(self) -> list[str]:
        return sorted(self.folders)

    async def load_adapter(self, name: str, folder: Path) -> None:
        self.folders[name] = folder

    async def replace_adapter(self, name: str, folder: Path) -> None:
        if self.refusal is not None:
            raise type(self.refusal)(f"{folder}: {self.refusal}")
        self.folders[name] = folder

    async def unload_adapter(self, name: str) -> None:
        if self.folders.pop(name, None) is None:
            raise NotFoundError(f"no adapter {name!r} is loaded")
