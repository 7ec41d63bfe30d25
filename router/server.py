"""The listening process: socket, loop, signals."""

import asyncio
import gc
import logging
import signal
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
import uvloop

from planner import listening
from planner.errors import DocumentError
from router.client_protocol import ClientProtocol
from router.config import RouterConfig
from router.errors import StartError
from router.gateway import open_gateway
from router.governance.opening import GovernanceFiles, open_files, read_keys
from router.reload import ConfigSource
from router.traffic_log import TrafficLog, open_traffic_log
from router.workers.supervisor import Supervisor, Ties
from router.workers.worker import ALONE, Worker
from router.workers.worker_server import WorkerServer

logger = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections the kernel keeps waiting; the system may cap it lower."""
KEEP_ALIVE_SECONDS = 75
"""For which an idle connection of a client is kept: longer than clients keep theirs (httpx and OpenAI's
client 5 s, aiohttp 15 s), so that none is closed while a request is on its way."""

NEW_OBJECTS = 10_000
"""Between two collections of the youngest; requests leave them nothing to collect."""
THREAD_SECONDS = 0.0005
"""For which a thread that computes may keep the event loop waiting, in place of 5 ms."""


@dataclass(frozen=True, slots=True)
class _Service:
    """What one process needs to serve; workers inherit it."""

    config: RouterConfig
    config_file: ConfigSource | None
    traffic_log: TrafficLog
    files: GovernanceFiles
    listener: socket.socket
    worker: Worker = ALONE
    ties: Ties | None = None
    """To the supervisor, where there are several workers."""


def serve(config: RouterConfig, config_file: ConfigSource | None = None) -> None:
    """Listen and route until SIGTERM or SIGINT, then let running requests finish.

    SIGHUP has the settings read again, from `config_file`. With several workers this process only
    keeps them alive and passes signals on.

    Raises:
        DocumentError: If a file of keys cannot be used.
        StartError: If the address is taken, or the traffic log or a file of governance cannot be
            opened.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    traffic_log = open_traffic_log(config.traffic_log)
    try:
        with bind(config.host, config.port) as listener:
            files = open_files(config)
            service = _Service(config, config_file, traffic_log, files, listener)
            if config.workers == 1:
                _run(service)
            else:
                _supervise(service)
    finally:
        traffic_log.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; port 0 takes a free one.

    Raises:
        StartError: If the address is taken or not ours.
    """
    try:
        return listening.bind(host, port)
    except OSError as error:
        message = (
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        )
        raise StartError(message) from None


def _supervise(service: _Service) -> None:
    def run_worker(worker: Worker, ties: Ties) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _run(_as_it_stands(replace(service, worker=worker, ties=ties)))

    def announce() -> None:
        logger.info("listening url=%s", listening.address_of(service.listener))

    with TemporaryDirectory(prefix="motley-router-") as folder:
        num_workers = service.config.workers
        Supervisor(num_workers, Path(folder), run_worker, announce=announce).run()


def _as_it_stands(service: _Service) -> _Service:
    """Return the service with the settings and keys of now; one that replaces another needs them.

    A file that is wrong by now is told, and the settings of the start stand in for it.
    """
    if service.config_file is None:
        return service
    try:
        config = service.config_file.read()
        path = config.governance.keys_file
        if (path is None) != (service.files.keys is None):
            logger.warning("setting needs a restart name=governance.keys_file")
            return service
        keys = None if path is None else read_keys(path, config.models)
    except DocumentError as error:
        logger.error("worker starts with the settings of the start problem=%s", error)
        return service
    return replace(service, config=config, files=replace(service.files, keys=keys))


def _run(service: _Service) -> None:
    """Serve in this process until it is told to stop."""
    worker = service.worker
    service.files.begin_worker(worker.number, is_shared=worker.num_workers > 1)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(service))
    finally:
        service.files.close()


async def _serve(service: _Service) -> None:
    async with open_gateway(
        service.config,
        service.traffic_log,
        config_file=service.config_file,
        files=service.files,
        worker=service.worker,
    ) as application:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, application.reloader.reload_soon, "SIGHUP"
        )
        server = _server(
            uvicorn.Config(
                application,
                http=ClientProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=service.config.timeouts.shutdown_seconds,
            ),
            service.ties,
        )
        _settle_interpreter()
        await server.serve(sockets=[service.listener])


def _settle_interpreter() -> None:
    """Keep what is not a request from holding requests up."""
    gc.collect()
    gc.freeze()  # what was loaded stays: a full collection need not visit it, which takes 70 ms
    gc.set_threshold(NEW_OBJECTS, 20, 50)
    sys.setswitchinterval(THREAD_SECONDS)


def _server(config: uvicorn.Config, ties: Ties | None) -> uvicorn.Server:
    return listening.GracefulServer(config) if ties is None else WorkerServer(config, ties=ties)
