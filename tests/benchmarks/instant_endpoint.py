"""The real endpoint over an engine without a model: its next token is the last one plus a step.

The engine's own work (scheduling, a token a step for each stream) is in the other process, so the
first process's time is the HTTP layer's: sockets, key, validation, chat template, tokenising,
detokenising, messages of the engine, metrics, a line of the log for each answer.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from planner import listening
from planner.console import configure_logging
from serving.config import ServeConfig
from serving.endpoint import run_endpoint
from serving.endpoint_config import EndpointConfig
from serving.engine.engine import Engine, EngineLimits
from serving.engine.rows import Rows
from serving.engine_child import EngineChild
from serving.engine_host import HostedEngine
from serving.keys import KeyRing

KEY = "sk-benchmark"
MODEL = "instant"
FIRST_TOKEN = 300
"""Below are special tokens and single bytes."""
TOKEN_STEP = 7


class InstantModel:
    """Emits a fixed sequence of ordinary tokens."""

    context_tokens = 1024
    kv_bytes_per_token = 1

    def __init__(self, vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size

    def forward(self, batch: Sequence[Rows]) -> torch.Tensor:
        """Return one-hot rows. Shape: (N, V)."""
        last = torch.tensor([token for rows in batch for token in rows.tokens[-rows.num_logits :]])
        following = (last - FIRST_TOKEN + TOKEN_STEP) % (self.vocabulary_size - FIRST_TOKEN)
        logits_NV = torch.zeros(len(last), self.vocabulary_size)
        logits_NV[torch.arange(len(last)), following + FIRST_TOKEN] = 1.0
        return logits_NV


@dataclass(frozen=True)
class InstantEngine:
    """An `EngineBuilder`."""

    tokenizer: str

    def __call__(self) -> HostedEngine:
        torch.set_num_threads(1)
        model = InstantModel(len(AutoTokenizer.from_pretrained(self.tokenizer)))
        limits = EngineLimits(
            kv_bytes=1 << 20, max_sequences=500, max_waiting=500, max_prefill_rows=1 << 14
        )
        return HostedEngine(
            Engine(model, None, num_draft_tokens=0, limits=limits, eos_ids=frozenset())
        )


def main(tokenizer: Path) -> None:
    """Serve on a free port of loopback, named in the log, until told to stop."""
    configure_logging()
    torch.set_num_threads(1)
    config = ServeConfig(model=str(tokenizer), served_model_name=MODEL)
    with listening.bind("127.0.0.1", 0) as listener:
        child = EngineChild.start(
            InstantEngine(str(tokenizer)), {}, needs_adapters=True, is_verbose=False
        )
        try:
            run_endpoint(config, {}, EndpointConfig(), KeyRing([KEY]), listener, child)
        finally:
            child.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
