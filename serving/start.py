"""From a configuration to a running endpoint: what can fail early does, then both processes start.

Imports nothing heavy: the engine's process is on its way before this one loads its own libraries.
"""

import logging
import os
import socket
from pathlib import Path

from planner import listening
from planner.loopback import is_loopback
from serving.adapter_folder import check_adapter
from serving.config import ServeConfig
from serving.endpoint_config import EndpointConfig
from serving.engine_child import ConfiguredEngine, EngineChild
from serving.errors import AddressError, ModelError
from serving.keys import KeyRing, read_keys
from serving.model_words import check_models

logger = logging.getLogger(__name__)


def serve(
    config: ServeConfig,
    adapters: dict[str, Path],
    endpoint: EndpointConfig,
    *,
    is_verbose: bool = False,
) -> None:
    """Listen, load in a process apart, and serve until SIGINT or SIGTERM.

    Args:
        config: What to serve.
        adapters: LoRA folders to load at start, by the name they answer under.
        endpoint: Who may ask, and for how long.
        is_verbose: Whether the engine logs every step.

    Raises:
        AdapterError: If a folder is no adapter; found out before the model loads, as are wrong
            paths of models and
        AddressError: if the address is taken.
        KeyFileError: If keys or certificates cannot be used.
        ModelError: If a model or adapter cannot be loaded.
    """
    if config.served_model_name in adapters:
        raise ModelError(
            f"--adapter {config.served_model_name!r} is the model's own name; choose another"
        )
    check_models(config.model, config.draft if config.drafter == "model" else None)
    for folder in adapters.values():
        check_adapter(folder)
    keys = find_keys(endpoint, config.host)
    with bind(config.host, config.port) as listener:
        # Before the imports below: they take as long as the engine's own, and both can run at once.
        child = EngineChild.start(
            ConfiguredEngine(config), adapters, needs_adapters=True, is_verbose=is_verbose
        )
        try:
            from serving.endpoint import run_endpoint

            run_endpoint(config, adapters, endpoint, keys, listener, child)
        finally:
            child.end()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; port 0 takes a free one.

    Raises:
        AddressError: If the address is taken or not ours.
    """
    try:
        return listening.bind(host, port)
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        ) from None


def find_keys(endpoint: EndpointConfig, host: str) -> KeyRing:
    """Return the keys of the files and of the environment; warn where strangers need none.

    Raises:
        KeyFileError: If they cannot be used.
    """
    keys = KeyRing(
        read_keys(endpoint.api_key_file, os.environ.get("MOTLEY_API_KEYS")),
        read_keys(endpoint.admin_key_file, os.environ.get("MOTLEY_ADMIN_KEYS")),
    )
    if keys.is_open and not is_loopback(host):
        logger.warning("no API key is asked for host=%s; consider --api-key-file", host)
    return keys
