"""The `sparsity` block of a job: how much of the adapter is sent, and how."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

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
    mask: Literal["own", "shared"] = "own"
    """Whose changes come up: each client's largest (`own`), or in a round the same entries of all
    clients, each in its turn (`shared`), whose positions cost nothing and tell nothing. What is not sent is lost
    without `error_feedback`, either way."""
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

    @model_validator(mode="after")
    def _is_heeded(self) -> Self:
        fields = type(self).model_fields
        for name in ("is_first_adapter_sent", "kept_copies"):
            value = getattr(self, name)
            if self.download == "weights" and value != fields[name].default:
                raise ValueError(
                    f"sparsity.{name}: {value} has no effect with `download: weights`, which "
                    "remembers no copies; leave it out, or give `download: change`"
                )
        return self

    @property
    def remembers(self) -> bool:
        """Whether a client must keep something from one round to the next."""
        return self.download == "change" or self.error_feedback is not None


DEFAULT_SPARSITY = SparsityConfig(
    download_density=0.03,
    upload_density=1 / 64,
    download="change",
    error_feedback=ErrorFeedback(),
)
"""What `sparsity: default` in a job means: of densities from 1/64 to 6 % down and 1/128 to 1/32 up,
those that took the fewest bytes to the dense job's loss in `make bench NAME=federated`."""


def _named(content: object) -> object:
    """Return the settings that a word stands for."""
    if isinstance(content, str) and content != "default":
        raise ValueError("give a block of its keys, or the word default")
    return DEFAULT_SPARSITY if content == "default" else content


SparsityChoice = Annotated[SparsityConfig, BeforeValidator(_named)]
"""A `sparsity` block, or the word `default` for `DEFAULT_SPARSITY`."""
