"""What a request says about how its tokens are chosen."""

from typing import Annotated

from pydantic import Field, model_validator

from planner.config import StrictModel

GREEDY_BELOW = 1e-5
"""Temperatures below are greedy, as in vLLM: dividing by them would overflow."""

TokenId = Annotated[int, Field(ge=0)]


class SamplingParams(StrictModel):
    """How tokens are chosen; `processors` and `sampling` state the order of application.

    Ranges are OpenAI's, and vLLM's for what OpenAI's API does not have.
    """

    temperature: float = Field(default=1.0, ge=0, le=2)
    """0, and anything below 1e-5, is greedy: the likeliest token, the lowest id among equals."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the likeliest tokens whose probabilities reach this sum; 1 keeps all."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Keep tokens at least this share as likely as the likeliest; 0 keeps all."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Divides positive and multiplies negative logits of ids in prompt or answer; 1 is off."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from a logit for each time the answer holds the id."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from a logit once if the answer holds the id."""
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict
    )
    """Added to the logits of these ids."""
    bad_token_ids: tuple[TokenId, ...] = ()
    """Ids never emitted."""
    stop_token_ids: tuple[TokenId, ...] = ()
    """Ids that end the text, beside the model's own."""
    min_tokens: int = Field(default=0, ge=0)
    """Tokens to generate before one may end the text."""
    max_tokens: int = Field(gt=0)
    """Most tokens to generate."""
    ignore_eos: bool = False
    """Go on after an end-of-text token, for measurements."""
    num_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Report each token's log-probability and this many likeliest ones; None reports none."""

    @model_validator(mode="after")
    def _check(self) -> "SamplingParams":
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}; lower it"
            )
        return self

    @property
    def is_greedy(self) -> bool:
        """Whether the output is a function of the logits alone."""
        return self.temperature < GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        """Whether logits depend on which tokens came before."""
        return (
            self.repetition_penalty != 1
            or self.frequency_penalty != 0
            or self.presence_penalty != 0
        )

    @property
    def reads_history(self) -> bool:
        """Whether a processor needs to know the tokens before a row."""
        return self.has_penalties or self.min_tokens > 0

    def check_ids(self, vocabulary_size: int) -> None:
        """Refuse ids that the model does not have, and a ban of everything.

        Raises:
            ValueError: Names the field and the id.
        """
        for name in ("logit_bias", "bad_token_ids", "stop_token_ids"):
            wrong = next((i for i in getattr(self, name) if i >= vocabulary_size), None)
            if wrong is not None:
                raise ValueError(
                    f"{name} holds token {wrong}; ids go from 0 to {vocabulary_size - 1}"
                )
        if len({*self.bad_token_ids, *self.stop_token_ids}) >= vocabulary_size:
            raise ValueError(
                f"bad_token_ids and stop_token_ids hold all {vocabulary_size} ids; leave one out"
            )
