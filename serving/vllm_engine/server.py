"""Prepares, launches and fronts vLLM until told to stop."""

import asyncio
import logging
import os
import socket
import tempfile
from pathlib import Path

from serving.adapter_folder import base_digest, check_adapter
from serving.adapter_roots import AdapterRoots
from serving.adapter_store import AdapterStore
from serving.edge import Gate
from serving.endpoint_config import EndpointConfig
from serving.endpoint_server import EndpointServer, serve_until_told
from serving.keys import KeyRing
from serving.start import bind, find_keys
from serving.vllm_engine.adapters import VllmAdapters
from serving.vllm_engine.arguments import command, environment
from serving.vllm_engine.config import VllmConfig
from serving.vllm_engine.engine import VllmEngine
from serving.vllm_engine.environment import check_interpreter, find_device, prepare
from serving.vllm_engine.owned_words import loggable
from serving.vllm_engine.proxy import build_proxy
from serving.vllm_engine.supervisor import Launch, VllmSupervisor
from serving.vllm_engine.upstream import open_upstream

logger = logging.getLogger(__name__)


def serve(config: VllmConfig, adapters: dict[str, Path], endpoint: EndpointConfig) -> None:
    """Listen, launch vLLM, and pass requests on until SIGINT or SIGTERM.

    Args:
        config: What to serve.
        adapters: LoRA folders to load at start, by the name they answer under.
        endpoint: Who may ask, and for how long.

    Raises:
        AddressError: If the address is taken.
        AdapterError: If a folder is no adapter.
        EngineError: If vLLM does not start.
        KeyFileError: If keys or certificates cannot be used.
        ModelError: If the plan has no such row, or vLLM cannot run it.
        SetupError: If vLLM's environment cannot be made or used.
    """
    for folder in adapters.values():
        check_adapter(folder)
    keys = find_keys(endpoint, config.host)
    with (
        bind(config.host, config.port) as listener,
        tempfile.TemporaryDirectory(prefix="motley-vllm-") as place,
    ):
        launch = _launch(config, Path(place) / "vllm.sock")
        asyncio.run(_serve(config, launch, adapters, endpoint, keys, listener))


async def _serve(
    config: VllmConfig,
    launch: Launch,
    adapters: dict[str, Path],
    endpoint: EndpointConfig,
    keys: KeyRing,
    listener: socket.socket,
) -> None:
    async with open_upstream(launch.uds) as upstream:
        loaded = VllmAdapters(upstream, adapters, base_digest=base_digest(config.model))
        supervisor = VllmSupervisor(launch, is_ready=upstream.is_healthy, on_ready=loaded.restore)
        gate = Gate()
        with AdapterStore.opened(endpoint, keys, config.host) as store:
            app = build_proxy(
                VllmEngine(supervisor, upstream, loaded),
                upstream,
                config.served_model_name,
                keys=keys,
                roots=AdapterRoots.of(endpoint.adapter_roots, host=config.host),
                store=store,
                gate=gate,
                request_timeout_seconds=endpoint.request_timeout_seconds,
            )
            server = EndpointServer(app, gate, endpoint, end_requests=supervisor.stop)
            supervisor.start()
            try:
                await serve_until_told(server, listener, loading=supervisor.wait_loaded())
            finally:
                await supervisor.stop()


def _launch(config: VllmConfig, uds: Path) -> Launch:
    device = find_device() if config.device == "auto" else config.device
    # Both before minutes are spent on an environment.
    variables = environment(config, device, os.environ)
    command(config, python=Path(), device=device, uds=uds)
    python = prepare(device) if config.python is None else check_interpreter(config.python)
    words = command(config, python=python, device=device, uds=uds)
    logger.info("launching vllm device=%s words=%s", device, loggable(words[5:]))
    return Launch(words, variables, uds, config.start_seconds)
