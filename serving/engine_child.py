"""One life of the engine's process: started, spoken to through a socket, ended.

Imports nothing heavy, so that the process can be started before its parent has loaded torch.
"""

import contextlib
import logging
import multiprocessing
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Self

from serving.config import ServeConfig

if TYPE_CHECKING:
    from serving.engine_host import EngineBuilder, HostedEngine

logger = logging.getLogger(__name__)

_END_SECONDS = 10.0
"""How long a process that was told to end may take before it is killed."""


@dataclass(frozen=True, slots=True)
class ConfiguredEngine:
    """An `EngineBuilder` for what `motley serve` was asked to serve."""

    config: ServeConfig

    def __call__(self) -> "HostedEngine":
        """Load it, in the process that calls."""
        from serving.server import load_hosted

        return load_hosted(self.config)


class EngineChild:
    """A process that runs `engine_host`, and our end of its socket."""

    def __init__(
        self, process: SpawnProcess, connection: socket.socket, build: "EngineBuilder"
    ) -> None:
        """Take what was started."""
        self._process = process
        self._ending: str | None = None
        self.pid = process.pid
        """Its process id."""
        self.build = build
        """What it loads."""
        self.connection = connection
        """Closing it ends the process."""

    @classmethod
    def start(
        cls,
        build: "EngineBuilder",
        adapters: Mapping[str, Path],
        *,
        needs_adapters: bool,
        is_verbose: bool,
    ) -> Self:
        """Start a process that loads at once; the arguments are `engine_host.host_engine`'s.

        Raises:
            OSError: If the system has no room for another process.
        """
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            # Spawned, not forked: threads and a started GPU do not survive a fork.
            process = multiprocessing.get_context("spawn").Process(
                target=_run,
                args=(theirs, build, dict(adapters)),
                kwargs={"needs_adapters": needs_adapters, "is_verbose": is_verbose},
                name="engine",
                daemon=True,
            )
            process.start()
            undo.pop_all()
        logger.info("engine process started pid=%d", process.pid)
        return cls(process, ours, build)

    def end(self) -> str:
        """Close the socket, wait for the process, kill it where it does not end; how it ended.

        May be called again.
        """
        if self._ending is not None:
            return self._ending
        self.connection.close()
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            logger.warning("engine process killed pid=%d after_seconds=%g", self.pid, _END_SECONDS)
            self._process.kill()
            self._process.join()
        self._ending = describe_exit(self._process.exitcode)
        # Whoever still holds this would keep the files that watched the process.
        self._process.close()
        return self._ending


def describe_exit(exit_code: int | None) -> str:
    """Return how a process ended, in words."""
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = str(-exit_code)
    hint = ", perhaps for lack of memory" if -exit_code == signal.SIGKILL else ""
    return f"was killed by {name}{hint} (exit code {exit_code})"


def _run(
    connection: socket.socket,
    build: "EngineBuilder",
    adapters: dict[str, Path],
    *,
    needs_adapters: bool,
    is_verbose: bool,
) -> None:
    from serving.engine_host import host_engine

    host_engine(connection, build, adapters, needs_adapters=needs_adapters, is_verbose=is_verbose)
