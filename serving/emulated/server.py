"""Puts an emulated replica behind the endpoint, and serves it until told to stop."""

import asyncio
import logging
import socket
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from planner.profiling.clock import Clock
from serving.adapter_folder import base_digest
from serving.adapter_roots import AdapterRoots
from serving.adapter_store import AdapterStore
from serving.answers import AnswerService
from serving.app import build_app
from serving.edge import Gate
from serving.emulated.config import EmulatedConfig
from serving.emulated.engine import EmulatedEngine
from serving.emulated.hardware import find_replica
from serving.emulated.runner import EmulatedRunner
from serving.endpoint_config import EndpointConfig
from serving.endpoint_server import EndpointServer, serve_until_told
from serving.keys import KeyRing
from serving.start import bind, find_keys
from serving.tokenizer import load_tokenizer, quieten_transformers

logger = logging.getLogger(__name__)

_SHIPPED_TOKENIZER = Path(__file__).parents[1] / "models" / "tiny" / "target"

ANSWER = "This text is made up; its timing is that of the hardware it emulates.\n"
"""What every answer repeats."""


def serve(config: EmulatedConfig, endpoint: EndpointConfig) -> None:
    """Listen and serve until SIGINT or SIGTERM.

    Raises:
        AddressError: If the address is taken.
        KeyFileError: If keys or certificates cannot be used.
        ModelError: If a name is unknown, or the model cannot run on the device.
    """
    keys = find_keys(endpoint, config.host)
    with bind(config.host, config.port) as listener:
        quieten_transformers()
        asyncio.run(_serve(config, endpoint, keys, listener))


async def _serve(
    config: EmulatedConfig, endpoint: EndpointConfig, keys: KeyRing, listener: socket.socket
) -> None:
    service, runner = build_emulation(
        config, request_timeout_seconds=endpoint.request_timeout_seconds
    )
    roots, gate = AdapterRoots.of(endpoint.adapter_roots, host=config.host), Gate()
    with AdapterStore.opened(endpoint, keys, config.host) as store:
        app = build_app(service, runner, keys=keys, roots=roots, store=store, gate=gate)
        server = EndpointServer(app, gate, endpoint, end_requests=runner.stop)
        await serve_until_told(server, listener, loading=asyncio.sleep(0))


def build_emulation(
    config: EmulatedConfig,
    *,
    clock: Clock | None = None,
    request_timeout_seconds: float | None = None,
) -> tuple[AnswerService, EmulatedRunner]:
    """Return what answers, and what steps behind it on `clock`, by default the process's.

    Raises:
        ModelError: If a name is unknown, or the model cannot run on the device.
    """
    replica = find_replica(config)
    tokenizer = find_tokenizer(config)
    text = tokenizer.encode(ANSWER, add_special_tokens=False)
    engine = EmulatedEngine(replica, max_waiting=config.max_waiting, text=text)
    runner = EmulatedRunner(
        engine,
        clock,
        request_timeout_seconds=request_timeout_seconds,
        base_digest=base_digest(config.model),
    )
    logger.info(
        "emulating model=%s gpu=%s devices=%d coefficients=%s context_tokens=%d",
        replica.design.model.name,
        replica.design.gpu.name,
        replica.design.num_devices,
        replica.coefficients.name,
        engine.context_tokens,
    )
    service = AnswerService(
        runner,
        tokenizer,
        model_name=config.served_model_name,
        vocabulary_size=engine.vocabulary_size,
    )
    return service, runner


def find_tokenizer(config: EmulatedConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer that was named, the model folder's own, or that of the shipped family.

    Raises:
        ModelError: If one was named and cannot be loaded.
    """
    if config.tokenizer is not None:
        return load_tokenizer(str(config.tokenizer))
    if (Path(config.model) / "tokenizer.json").is_file():
        return load_tokenizer(config.model)
    return load_tokenizer(str(_SHIPPED_TOKENIZER))
