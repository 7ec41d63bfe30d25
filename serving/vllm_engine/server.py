"""Prepares, launches and fronts vLLM until told to stop."""

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from pathlib import Path

from planner.listening import GracefulServer
from serving.http_server import bind, make_server
from serving.vllm_engine.adapters import VllmAdapters, check_folder
from serving.vllm_engine.arguments import command, environment
from serving.vllm_engine.config import VllmConfig
from serving.vllm_engine.environment import check_interpreter, find_device, prepare
from serving.vllm_engine.proxy import VllmProxy
from serving.vllm_engine.supervisor import Launch, VllmSupervisor
from serving.vllm_engine.upstream import open_upstream

logger = logging.getLogger(__name__)


def serve(config: VllmConfig, adapters: dict[str, Path]) -> None:
    """Listen, launch vLLM, and pass requests on until SIGINT or SIGTERM.

    Args:
        config: What to serve.
        adapters: LoRA folders to load at start, by the name they answer under.

    Raises:
        AddressError: If the address is taken.
        AdapterError: If a folder is no adapter.
        EngineError: If vLLM does not start.
        ModelError: If the plan has no such row, or vLLM cannot run it.
        SetupError: If vLLM's environment cannot be made or used.
    """
    for folder in adapters.values():
        check_folder(folder)
    with (
        bind(config.host, config.port) as listener,
        tempfile.TemporaryDirectory(prefix="motley-vllm-") as place,
    ):
        launch = _launch(config, Path(place) / "vllm.sock")
        asyncio.run(front(launch, adapters, config.served_model_name, listener))


async def front(
    launch: Launch, adapters: dict[str, Path], model_name: str, listener: socket.socket
) -> None:
    """Run the server and the proxy in front of it until told to stop.

    Raises:
        EngineError: If it cannot be started.
        ServingError: If an adapter that was named at start cannot be loaded.
    """
    async with open_upstream(launch.uds) as upstream:
        loaded = VllmAdapters(upstream, adapters)
        supervisor = VllmSupervisor(launch, is_ready=upstream.is_healthy, on_ready=loaded.restore)
        proxy = VllmProxy(supervisor, upstream, loaded, model_name=model_name)
        await _until_either_ends(make_server(proxy.app()), listener, supervisor)


async def _until_either_ends(
    server: GracefulServer, listener: socket.socket, supervisor: VllmSupervisor
) -> None:
    supervising = asyncio.create_task(supervisor.run())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.wait({supervising, serving}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        supervising.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({supervising})
        await supervisor.stop()
    if not supervising.cancelled() and (error := supervising.exception()) is not None:
        raise error


def _launch(config: VllmConfig, uds: Path) -> Launch:
    device = find_device() if config.device == "auto" else config.device
    # Both before minutes are spent on an environment.
    variables = environment(config, device, os.environ)
    command(config, python=Path(), device=device, uds=uds)
    python = prepare(device) if config.python is None else check_interpreter(config.python)
    words = command(config, python=python, device=device, uds=uds)
    logger.info("launching vllm device=%s words=%s", device, list(words[5:]))
    return Launch(words, variables, uds, config.start_seconds)
