"""The router's file with everything it names: read at the start, and again for each reload."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.documents import read_content, validated
from planner.errors import DocumentError
from router.config import RouterConfig, check_sources
from router.discovery.config import PlanSource
from router.discovery.plan_file import planned_models


class ConfigFile:
    """Reads one file, with what the command line says over it."""

    def __init__(self, path: Path, overrides: Mapping[str, object] | None = None) -> None:
        """Read `path`; `overrides` are top-level settings that win."""
        self._path = path
        self._overrides = dict(overrides or {})
        self._paths = [path]

    def read(self) -> RouterConfig:
        """Return the settings, the models of planned fleets among them.

        Raises:
            DocumentError: If the file or a plan it names is wrong, in one line.
        """
        content = {**read_content(self._path), **self._overrides}
        config = validated(self._path, content, RouterConfig)
        plans = [each for each in config.discovery.sources if isinstance(each, PlanSource)]
        self._paths = [self._path, *[plan.file for plan in plans]]
        for plan in plans:
            models = content.get("models") or []
            content = {**content, "models": _merged(plan.file, models, planned_models(plan))}
        return self._completed(content) if plans else config

    def _completed(self, content: dict[Any, Any]) -> RouterConfig:
        config = validated(self._path, content, RouterConfig)
        try:
            check_sources(config.models, config.discovery)
        except ValueError as error:
            raise DocumentError(self._path, str(error)) from None
        return config

    def stamp(self) -> tuple[object, ...]:
        """Return a value that changes when the file, or a plan it named last, is another."""
        return tuple(map(_stamp, self._paths))


def _merged(
    plan: Path, models: list[dict[str, Any]], planned: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the models of a file with those of a plan: replicas add up, weights are the plan's."""
    merged = []
    for model in models:
        addition = planned.pop(model["name"], None)
        if addition is None:
            merged.append(model)
            continue
        if model.get("weights"):
            raise DocumentError(
                plan, f"gives weights to {model['name']!r}, which has its own; remove those"
            )
        replicas = [*(model.get("replicas") or []), *addition["replicas"]]
        merged.append({**model, "replicas": replicas, "weights": addition["weights"]})
    return merged + [{"name": name, **addition} for name, addition in planned.items()]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
