"""One adapter in place of another, in an engine that nobody else steps meanwhile."""

from pathlib import Path
from typing import Protocol


class AdapterHolder(Protocol):
    """What an engine does with adapters, called between two of its steps."""

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters."""

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load a folder under a name that is free."""

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests that run with it finish with it."""


def replace_adapter(engine: AdapterHolder, name: str, folder: Path) -> None:
    """Load a folder under a name, in place of what has that name.

    Between two steps no request finds the name missing. A folder that does not fit leaves
    everything as it was: it is loaded under a name that no request can have first.

    Raises:
        AdapterError: If it does not fit.
    """
    if name in engine.adapter_names:
        trial = f"{name} (trial)"
        engine.load_adapter(trial, folder)
        engine.unload_adapter(trial)
        engine.unload_adapter(name)
    engine.load_adapter(name, folder)
