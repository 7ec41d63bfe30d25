"""Reading the router's file again while it runs.

A file that is wrong in any way changes nothing: one line of log, a count, and 400 to whoever asked.
A file that is right is in force for requests that come from then on; those that run end as they
began. What cannot change in a running process is named, with the value that stays.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from planner.errors import DocumentError
from router.config import RouterConfig
from router.errors import PredictorFileError, ReloadRefusedError, StartError
from router.metrics import RouterMetrics

NEEDS_RESTART = (
    "host",
    "port",
    "workers",
    "traffic_log",
    "governance.usage_file",
    "governance.store_prompts",
    "timeouts.shutdown_seconds",
    "discovery.state_file",
)
"""Settings, by dotted path, that a running process keeps."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did."""

    changed: tuple[str, ...]
    """Top-level settings that differ from before."""
    needs_restart: tuple[str, ...]
    """Settings among them that stay as they are until the process starts anew."""


def changes(before: RouterConfig, after: RouterConfig) -> Reloaded:
    """Return what differs between two configurations."""
    names = RouterConfig.model_fields
    return Reloaded(
        changed=tuple(name for name in names if getattr(before, name) != getattr(after, name)),
        needs_restart=tuple(
            path for path in NEEDS_RESTART if _value(before, path) != _value(after, path)
        ),
    )


class ConfigSource(Protocol):
    """Where settings come from."""

    def read(self) -> RouterConfig:
        """Return them as they stand there now, or raise `DocumentError`."""
        ...

    def stamp(self) -> object:
        """Return a value that changes with them."""
        ...


@dataclass(frozen=True, slots=True)
class FixedConfig:
    """Settings that no file holds."""

    config: RouterConfig

    def read(self) -> RouterConfig:
        """Return them."""
        return self.config

    def stamp(self) -> object:
        """Return always the same."""
        return None


class Reloader:
    """Puts the file in force again, one reload at a time."""

    def __init__(
        self,
        config: RouterConfig,
        file: ConfigSource,
        apply: Callable[[RouterConfig], Awaitable[None]],
        metrics: RouterMetrics,
        *,
        tell_others: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin with the `config` in force.

        Args:
            config: What the process started with.
            file: Where settings are read again.
            apply: Puts a configuration in force, or raises `DocumentError`, `StartError` or
                `PredictorFileError` before it has changed anything.
            metrics: Counts.
            tell_others: Has the other workers, if there are any, read the file too.
        """
        self._started_with = self._in_force = config
        self._file = file
        self._apply = apply
        self._metrics = metrics
        self._tell_others = tell_others
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reload(self, cause: str) -> Reloaded:
        """Read the file and put it in force.

        Raises:
            ReloadRefusedError: If it is wrong; everything is as before.
        """
        async with self._lock:
            try:
                config = await asyncio.to_thread(self._file.read)
                await self._apply(config)
            except (DocumentError, StartError, PredictorFileError) as error:
                self._metrics.reloaded("refused")
                logger.error("reload refused cause=%s problem=%s", cause, error)
                raise ReloadRefusedError(str(error)) from None
            done = Reloaded(
                changed=changes(self._in_force, config).changed,
                needs_restart=changes(self._started_with, config).needs_restart,
            )
            self._in_force = config
        self._metrics.reloaded("done")
        logger.info(
            "reloaded cause=%s changed=%s", cause, ",".join(done.changed) or "only what it names"
        )
        for path in done.needs_restart:
            logger.warning(
                "setting needs a restart name=%s value=%s stays=%s",
                path,
                _value(config, path),
                _value(self._started_with, path),
            )
        return done

    @property
    def in_force(self) -> RouterConfig:
        """The settings put in force last."""
        return self._in_force

    def stamp(self) -> object:
        """Return a value that changes with the file."""
        return self._file.stamp()

    def reload_soon(self, cause: str) -> None:
        """Reload in a task of its own; its outcome goes to the log."""
        task = asyncio.create_task(self.reload_quietly(cause))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload_quietly(self, cause: str) -> None:
        """Reload; the outcome goes to the log alone."""
        try:
            with suppress(ReloadRefusedError):  # told in the log and counted
                await self.reload(cause)
        except Exception:
            logger.critical("reload ended by a bug cause=%s", cause, exc_info=True)

    async def stop(self) -> None:
        """End what `reload_soon` began."""
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self, request: Request) -> Response:
        """Answer `POST /admin/reload`."""
        done = await self.reload("admin")
        self._tell_others()
        return JSONResponse(
            {"status": "ok", "changed": done.changed, "needs_restart": done.needs_restart}
        )


def _value(config: object, path: str) -> object:
    for name in path.split("."):
        config = getattr(config, name)
    return config
