"""Engines over a table of logits that can be sent to a process of their own."""

import os
import signal
import time
from dataclasses import dataclass

from toy_model import TableModel, random_table

from serving.engine.engine import Engine, EngineLimits
from serving.engine_host import HostedEngine
from serving.errors import ModelError

CRASHING_TOKEN = 5
"""A prompt that begins with it makes a `ToyEngine` fail in its step, as a bug would."""
KILLING_TOKEN = 4
"""A prompt that begins with it kills the engine's process, as the kernel does for memory."""


class _FragileModel(TableModel):
    def __init__(self, step_seconds: float) -> None:
        super().__init__(random_table(6, seed=1))
        self._step_seconds = step_seconds

    def forward(self, batch, ids_T=None):
        time.sleep(self._step_seconds)
        firsts = [rows.tokens[0] for rows in batch if len(rows.tokens) == 3]
        if CRASHING_TOKEN in firsts:
            raise RuntimeError("broken")
        if KILLING_TOKEN in firsts:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch, ids_T)


@dataclass(frozen=True)
class ToyEngine:
    """An `EngineBuilder`."""

    step_seconds: float = 0.0
    loads: bool = True
    max_sequences: int = 64
    max_waiting: int = 600

    def __call__(self) -> HostedEngine:
        if not self.loads:
            raise ModelError("toy: is no model; name another")
        limits = EngineLimits(
            kv_bytes=1 << 20, max_sequences=self.max_sequences, max_waiting=self.max_waiting
        )
        model = _FragileModel(self.step_seconds)
        return HostedEngine(
            Engine(model, None, num_draft_tokens=0, limits=limits, eos_ids=frozenset())
        )
