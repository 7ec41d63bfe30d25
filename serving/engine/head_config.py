"""What a Dovetail head is: its shape, and the target it was made for. Needs no torch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel

HEAD_TYPE = "motley_dovetail_head"
"""Tells a head's `config.json` from a model's."""


class HeadConfig(StrictModel):
    """Shape of a head and facts of its target; the `config.json` of a head's folder."""

    schema_version: Literal[1] = 1
    """Version of this document's schema."""
    model_type: Literal["motley_dovetail_head"] = "motley_dovetail_head"
    """Always this word."""
    feature_size: int = Field(gt=0)
    """Width of the target's hidden states, and of its embedding."""
    vocabulary_size: int = Field(gt=0)
    """Width of the target's logits."""
    width: int = Field(gt=0)
    """Width of the head's own residual stream; where it is not the target's, one more matrix leads
    back to the target's."""
    num_layers: int = Field(ge=1, le=12)
    """Decoder layers behind the fusion."""
    intermediate_size: int = Field(gt=0)
    """Width of the gated feed-forward layer."""
    num_heads: int = Field(gt=0)
    """Query heads."""
    num_key_value_heads: int = Field(gt=0)
    """Key and value heads."""
    head_size: int = Field(gt=0, multiple_of=2)
    """Width of one head."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary frequencies."""
    norm_epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square in every norm."""
    context_tokens: int = Field(gt=0)
    """Longest sequence."""
    target_sha256: str | None = None
    """Digest of the target's weights, see `weights_sha256`; null: made for no target of a folder."""

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Self:
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is no multiple of num_key_value_heads "
                f"{self.num_key_value_heads}; give one that is"
            )
        return self
