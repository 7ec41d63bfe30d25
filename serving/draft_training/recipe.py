"""How a head is trained, as one frozen value. Needs no torch."""

from pydantic import Field

from planner.config import StrictModel


class HeadRecipe(StrictModel):
    """Shape of a head relative to its target, and its training; defaults are Dovetail's own."""

    seed: int = 42
    """Seed of initial weights, order and noise."""
    num_layers: int = Field(default=1, ge=1, le=12)
    """Decoder layers behind the fusion."""
    width: int | None = Field(default=None, gt=0)
    """Width of the head; null is the target's."""
    intermediate_size: int | None = Field(default=None, gt=0)
    """Width of the feed-forward layer; null is the target's."""
    num_heads: int | None = Field(default=None, gt=0)
    """Query heads; null is the target's."""
    num_key_value_heads: int | None = Field(default=None, gt=0)
    """Key and value heads; null is the target's."""
    sequence_tokens: int = Field(default=2048, ge=3)
    """Longest sequence; texts are cut to it."""
    batch_sequences: int = Field(default=4, gt=0)
    """Sequences of one step."""
    num_steps: int = Field(default=20_000, gt=0)
    """Optimiser steps."""
    warmup_steps: int = Field(default=400, ge=1)
    """Steps over which the rate rises from zero."""
    decay_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps, at the end, over which it falls to zero linearly; all is Dovetail's."""
    rate: float = Field(default=3e-5, gt=0)
    """Highest learning rate of AdamW."""
    gradient_limit: float = Field(default=0.5, gt=0)
    """Each component of the gradient is clipped to this size."""
    noise_width: float = Field(default=0.2, ge=0)
    """Width of the uniform noise on features of sequences of 512 tokens."""
    feature_weight: float = Field(default=1.0, ge=0)
    """Weight of the features' SmoothL1 in the loss."""
    token_weight: float = Field(default=0.1, ge=0)
    """Weight of the tokens' cross-entropy in the loss."""
    num_depths: int = Field(default=1, ge=1, le=8)
    """Depths a chain is unrolled to in training, on the head's own features; Dovetail has 1."""
    deep_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps, at the end, that unroll chains so deep; those before have depth 1."""

    def depths_at(self, step: int) -> int:
        """Return the depths of the chains of `step`, counted from 0."""
        first_deep = self.num_steps - round(self.num_steps * self.deep_fraction)
        return self.num_depths if step >= first_deep else 1

    def rate_fraction(self, step: int) -> float:
        """Return the share of the full learning rate at `step`, counted from 0."""
        rising = (step + 1) / self.warmup_steps
        decay_steps = max(round(self.num_steps * self.decay_fraction), 1)
        falling = (self.num_steps - step) / decay_steps
        return min(rising, falling, 1.0)

    @property
    def plain_steps(self) -> int:
        """Steps, from the first, that would be the same under a longer schedule."""
        ending = max(self.decay_fraction, self.deep_fraction if self.num_depths > 1 else 0.0)
        return self.num_steps - round(self.num_steps * ending)
