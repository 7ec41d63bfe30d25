"""The `sparsity` block of a job: how much of the adapter is sent, and how."""

from typing import Literal

from pydantic import Field

from finetune.wire.message import Encoding
from finetune.wire.values import ValueType
from planner.config import StrictModel


class ErrorFeedback(StrictModel):
    """What a client did not send is added to its next update."""

    decay_per_missed_round: float = Field(default=1.0, ge=0, le=1)
    """Factor on what is left over, for each round that the client was not in."""


class SparsityConfig(StrictModel):
    """The largest entries of the adapter go down, the largest changes come up."""

    download_density: float = Field(gt=0, le=1)
    """Share of the adapter's entries sent to a client in round 1, at least one entry."""
    upload_density: float = Field(gt=0, le=1)
    """Share of the entries whose changes a client sends in round 1, at least one entry."""
    download_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on `download_density` after each `decay_every_rounds`; 1 keeps it."""
    upload_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on `upload_density` after each `decay_every_rounds`; 1 keeps it."""
    decay_every_rounds: int = Field(default=1, gt=0)
    """Rounds between two decays."""
    download: Literal["weights", "change"] = "weights"
    """`weights`: the largest weights, the others start at zero (FLASC). `change`: the largest
    differences from what the client holds already; who holds nothing is sent the whole adapter."""
    is_first_adapter_sent: bool = False
    """With `change`: send the first adapter whole. By default each client makes it from the job's
    seed, as the server does; one whose own differs is refused once and then sent all."""
    kept_copies: int = Field(default=8, gt=0)
    """With `change`: adapters of clients that the server remembers, a float32 adapter each. A
    client whose copy was dropped is sent the whole adapter."""
    download_values: ValueType = "float32"
    """How values travel to the clients."""
    upload_values: ValueType = "float32"
    """How values travel from the clients."""
    encoding: Encoding | None = None
    """How positions travel; by default as makes each message shortest."""
    error_feedback: ErrorFeedback | None = None
    """Keep what was not sent for the next round; by default it is dropped."""
