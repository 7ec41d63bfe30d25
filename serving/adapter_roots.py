"""Which folders a client may have an adapter loaded from."""

from pathlib import Path

from planner.loopback import is_loopback
from serving.errors import AdapterError, ForbiddenError

_FILES = ("adapter_config.json", "adapter_model.safetensors", "motley.json")
"""What is read of an adapter's folder."""


class AdapterRoots:
    """The allowed folders; None allows every folder, no folder allows none."""

    def __init__(self, roots: tuple[Path, ...] | None = None) -> None:
        """Resolve the roots once: a link that is changed later moves nothing in or out."""
        self._roots = None if roots is None else tuple(root.resolve() for root in roots)

    @classmethod
    def of(cls, roots: tuple[Path, ...], *, host: str) -> "AdapterRoots":
        """Return the given roots; without any, all folders where only this machine can ask."""
        return cls(roots if roots or not is_loopback(host) else None)

    def resolve(self, path: str) -> Path:
        """Return the folder behind a path, links followed.

        Raises:
            AdapterError: If it is no path.
            ForbiddenError: If it, or a file that would be read, is outside every root; whether it
                exists is not told.
        """
        if self._roots is None:
            return Path(path)
        try:
            folder = Path(path).resolve()
            places = [folder, *((folder / name).resolve() for name in _FILES)]
        except (OSError, ValueError, RuntimeError) as error:
            raise AdapterError(f"{path[:80]!r} is no path ({error})"[:200]) from None
        if not all(self._is_allowed(place) for place in places):
            raise ForbiddenError(
                f"{path[:200]!r} is outside the folders that adapters are loaded from; move it "
                "there, or start the endpoint with --adapter-root"
            )
        return folder

    def _is_allowed(self, place: Path) -> bool:
        return any(place.is_relative_to(root) for root in self._roots or ())
