"""Puts an emulated replica behind the endpoint, and serves it until told to stop."""

import logging
from pathlib import Path

from fastapi import FastAPI
from transformers import PreTrainedTokenizerBase

from planner.profiling.clock import Clock
from serving.answers import AnswerService
from serving.app import build_app
from serving.emulated.config import EmulatedConfig
from serving.emulated.engine import EmulatedEngine
from serving.emulated.hardware import find_replica
from serving.emulated.runner import EmulatedRunner
from serving.http_server import bind, run_until_stopped
from serving.server import load_tokenizer

logger = logging.getLogger(__name__)

_SHIPPED_TOKENIZER = Path(__file__).parents[1] / "models" / "tiny" / "target"

ANSWER = "This text is made up; its timing is that of the hardware it emulates.\n"
"""What every answer repeats."""


def serve(config: EmulatedConfig) -> None:
    """Listen and serve until SIGINT or SIGTERM.

    Raises:
        AddressError: If the address is taken.
        ModelError: If a name is unknown, or the model cannot run on the device.
    """
    with bind(config.host, config.port) as listener:
        app, _ = build_emulation(config)
        run_until_stopped(app, listener)


def build_emulation(
    config: EmulatedConfig, *, clock: Clock | None = None
) -> tuple[FastAPI, EmulatedRunner]:
    """Return the application, and what steps behind it on `clock`, by default the process's.

    Raises:
        ModelError: If a name is unknown, or the model cannot run on the device.
    """
    replica = find_replica(config)
    tokenizer = find_tokenizer(config)
    text = tokenizer.encode(ANSWER, add_special_tokens=False)
    engine = EmulatedEngine(replica, max_waiting=config.max_waiting, text=text)
    runner = EmulatedRunner(engine, clock)
    service = AnswerService(
        runner,
        tokenizer,
        model_name=config.served_model_name,
        vocabulary_size=engine.vocabulary_size,
    )
    logger.info(
        "emulating model=%s gpu=%s devices=%d coefficients=%s context_tokens=%d",
        replica.design.model.name,
        replica.design.gpu.name,
        replica.design.num_devices,
        replica.coefficients.name,
        engine.context_tokens,
    )
    return build_app(service, runner), runner


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
