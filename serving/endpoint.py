"""The endpoint's process: HTTP over an engine in another one, from loading to the last answer."""

import asyncio
import socket
from pathlib import Path

import uvloop
from transformers import PreTrainedTokenizerBase

from serving.adapter_roots import AdapterRoots
from serving.adapter_store import AdapterStore
from serving.answers import AnswerService
from serving.app import build_app
from serving.config import ServeConfig
from serving.edge import Gate
from serving.endpoint_config import EndpointConfig
from serving.endpoint_server import EndpointServer, serve_until_told
from serving.engine_child import EngineChild
from serving.engine_process import EngineProcess
from serving.errors import ModelError
from serving.keys import KeyRing
from serving.tokenizer import load_tokenizer, quieten_transformers


def run_endpoint(
    config: ServeConfig,
    adapters: dict[str, Path],
    endpoint: EndpointConfig,
    keys: KeyRing,
    listener: socket.socket,
    child: EngineChild,
) -> None:
    """Answer on `listener` with the engine of `child`, until SIGINT or SIGTERM.

    Raises:
        KeyFileError: If certificates cannot be used.
        ModelError: If a model or adapter cannot be loaded.
    """
    quieten_transformers()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, adapters, endpoint, keys, listener, child))


async def _serve(
    config: ServeConfig,
    adapters: dict[str, Path],
    endpoint: EndpointConfig,
    keys: KeyRing,
    listener: socket.socket,
    child: EngineChild,
) -> None:
    engine = EngineProcess(
        child.build,
        adapters=adapters,
        child=child,
        request_timeout_seconds=endpoint.request_timeout_seconds,
    )
    engine.start()
    try:
        tokenizer = await _load_tokenizer(config.model, engine)
        service = AnswerService(
            engine,
            tokenizer,
            model_name=config.served_model_name,
            request_timeout_seconds=endpoint.request_timeout_seconds,
        )
        roots = AdapterRoots.of(endpoint.adapter_roots, host=config.host)
        gate = Gate()
        with AdapterStore.opened(endpoint, keys, config.host) as store:
            app = build_app(service, engine, keys=keys, roots=roots, store=store, gate=gate)
            server = EndpointServer(app, gate, endpoint, end_requests=engine.stop)
            await serve_until_told(server, listener, loading=engine.wait_loaded())
    finally:
        await engine.stop()


async def _load_tokenizer(model: str, engine: EngineProcess) -> PreTrainedTokenizerBase:
    try:
        return await asyncio.to_thread(load_tokenizer, model)
    except ModelError:
        # Where the model itself is at fault, the engine says so better.
        await engine.wait_loaded()
        raise
