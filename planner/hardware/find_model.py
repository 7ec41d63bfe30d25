"""Finding a model's sizes: a folder, the hub's cache, the built-in list, or the hub itself."""

import json
import os
from pathlib import Path

from planner.errors import DocumentError, UnknownNameError
from planner.hardware.catalogue import Catalogue
from planner.hardware.hub_config import fetch_config
from planner.hardware.model_config import model_spec_of
from planner.hardware.model_spec import ModelSpec


def find_model(name: str, catalogue: Catalogue, *, hub_cache: Path | None = None) -> ModelSpec:
    """Return the sizes of the model called `name`; at most its config.json is fetched.

    A name that starts with `.`, `/` or `~` is a folder. Any other is a folder where one with a
    config.json exists, else a hub id in the cache, else an entry of the catalogue, else a hub id to
    ask the hub for.

    Args:
        name: Folder or hub id.
        catalogue: Its models serve where neither folder nor cache does.
        hub_cache: The hub's cache; nothing: where its own tools keep it.

    Raises:
        DocumentError: If the config.json found cannot be read or planned.
        HubError: If the hub must be asked and cannot be.
        UnknownNameError: If there is none.
    """
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or (folder / "config.json").is_file():
        return _read(folder / "config.json", folder.resolve().name)
    cached = _cached_config(name, hub_cache or default_hub_cache())
    if cached is not None:
        return _read(cached, name)
    for entry in catalogue.models:
        if entry.name.casefold() == name.casefold():
            return model_spec_of(entry.config, name=entry.name, path=Path(entry.name))
    if "/" in name and (fetched := fetch_config(name)) is not None:
        return model_spec_of(fetched, name=name, path=Path(name))
    raise UnknownNameError(
        "model",
        name,
        [entry.name for entry in catalogue.models],
        "correct it, download it, or name a folder with its config.json",
    )


def default_hub_cache() -> Path:
    """Return the folder in which the hub's own tools keep what they download."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _cached_config(name: str, hub_cache: Path) -> Path | None:
    folder = hub_cache / f"models--{name.replace('/', '--')}"
    main = folder / "refs" / "main"
    if main.is_file():
        path = folder / "snapshots" / main.read_text().strip() / "config.json"
        if path.is_file():
            return path
    # Downloads of a named revision leave no `main`.
    return next(iter(sorted(folder.glob("snapshots/*/config.json"))), None)


def _read(path: Path, name: str) -> ModelSpec:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DocumentError(path, "no such file; name a model folder") from None
    except (OSError, ValueError) as error:
        raise DocumentError(path, f"cannot be read ({error}); check the file") from None
    if not isinstance(content, dict):
        raise DocumentError(path, "holds no mapping at its top level; name a model folder")
    return model_spec_of(content, name=name, path=path)
