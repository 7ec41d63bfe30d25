"""What a client sends back, as plain values, and when the server refuses it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.trust.identity import BaseIdentity

Tensors = Mapping[str, NDArray[np.float32]]
"""An adapter's tensors by the name PEFT saves them under: A is (rank, in), B is (out, rank)."""


@dataclass(frozen=True, slots=True)
class Update:
    """One client's adapter after local training.

    Attributes:
        client: Its name.
        tensors: The whole adapter, not the change.
        num_examples: Training sequences it holds; its weight in the average.
        loss: Mean training loss of the round, nats a token.
        sent_bytes: Length of its serialised reply.
        identity: The base model it declares, if it does.
        version: Number of the adapter it declares to have started from, if it does.
        node_id: Where it can be told of a refusal.
        is_sum: Whether it is the mean of clients that the server saw no single update of.
        held_out: How it judged the adapter it was sent, if it did; of a sum, each of its clients.
    """

    client: str
    tensors: Tensors
    num_examples: int
    loss: float
    sent_bytes: int
    identity: BaseIdentity | None = None
    version: int | None = None
    node_id: int = 0
    is_sum: bool = False
    held_out: tuple["Evaluation", ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client whose reply does not count in this round, and why.

    Attributes:
        client: Its name, or the node's where the reply does not say.
        reason: What is wrong, with the value; the client is told it.
        sent_bytes: Length of its serialised reply.
        node_id: Where it can be told.

    A reason may hold what a client sent: it is cut, and cleared of what no line of a log holds.
    """

    client: str
    reason: str
    sent_bytes: int
    node_id: int = 0

    def __post_init__(self) -> None:
        """Make the reason one short line."""
        object.__setattr__(self, "reason", one_line(self.reason))


def one_line(text: str) -> str:
    """Return a text from outside as the short line that logs, checkpoints and terminals can hold."""
    return "".join(c if c.isprintable() else " " for c in text[:MOST_REASON_CHARACTERS])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An adapter's loss on one client's held-out text.

    Attributes:
        client: Its name.
        loss: Nats a token.
        num_tokens: Tokens scored.
    """

    client: str
    loss: float
    num_tokens: int


MOST_REASON_CHARACTERS = 300
"""Longest reason of a refusal that is kept."""

MOST_ABSOLUTE_VALUE = 1e3
"""Largest entry of a LoRA factor that is believed; healthy ones stay below 10."""

MOST_EXAMPLES = 1_000_000_000
"""Most examples a client is believed to hold; a larger claim would outvote everybody."""


def refusal_reason(update: Update, *, like: Tensors) -> str | None:
    """Return why `update` must not be aggregated, or None if it may.

    Args:
        update: What a client sent.
        like: The adapter it was sent: names, shapes and types must be the same.
    """
    if not 1 <= update.num_examples <= MOST_EXAMPLES:
        return f"claims {update.num_examples} examples, 1 to {MOST_EXAMPLES} are believed"
    if not math.isfinite(update.loss):
        return f"reports a training loss of {update.loss}"
    missing = sorted(like.keys() - update.tensors.keys())
    if missing:
        return f"lacks {len(missing)} tensors, first {missing[0]}"
    unknown = sorted(update.tensors.keys() - like.keys())
    if unknown:
        return f"holds {len(unknown)} unknown tensors, first {unknown[0]}"
    for name, expected in like.items():
        tensor = update.tensors[name]
        if tensor.shape != expected.shape:
            return f"{name} has shape {tensor.shape}, not {expected.shape}"
        if tensor.dtype != expected.dtype:
            return f"{name} has type {tensor.dtype}, not {expected.dtype}"
        if not np.isfinite(tensor).all():
            return f"{name} holds NaN or infinity"
        largest = float(np.abs(tensor).max(initial=0.0))
        if largest > MOST_ABSOLUTE_VALUE:
            return f"{name} holds {largest:.3g}, above {MOST_ABSOLUTE_VALUE:g}"
    return None
