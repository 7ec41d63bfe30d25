"""How the tiny family is made: shapes, batches, schedule. One frozen value, stored in the card."""

from pydantic import Field
from transformers import LlamaConfig

from planner.config import StrictModel


class ModelShape(StrictModel):
    """Size of one Llama-architecture model."""

    num_layers: int = Field(gt=0)
    """Decoder layers."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(gt=0)
    """Width of the gated feed-forward layer."""
    num_heads: int = Field(gt=0)
    """Query heads."""
    num_key_value_heads: int = Field(gt=0)
    """Key and value heads."""
    head_size: int = Field(gt=0)
    """Width of one head."""
    tied_embeddings: bool = True
    """Whether one matrix is both embedding and head."""

    def llama(self, *, vocabulary_size: int, context_tokens: int) -> LlamaConfig:
        """Return the transformers configuration of this shape; token ids as in `tokenizer.py`."""
        return LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_size,
            max_position_embeddings=context_tokens,
            tie_word_embeddings=self.tied_embeddings,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=[3, 0],
            initializer_range=0.02,
        )


class Schedule(StrictModel):
    """Optimiser steps: linear warm-up, constant rate, linear decay to zero."""

    num_steps: int = Field(gt=0)
    """Steps in all."""
    tokens_per_step: int = 2048
    """Tokens of one step, whatever the sequence length."""
    sequence_tokens: int = 256
    """Length of a training sequence."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    decay_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls to zero."""
    long_fraction: float = Field(default=0.12, ge=0, le=1)
    """Share of the steps, at the end, that train on sequences of the full context."""
    matrix_rate: float = Field(default=4e-3, gt=0)
    """Muon's rate for the hidden matrices, in AdamW's scale (`match_rms_adamw`)."""
    vector_rate: float = Field(default=4e-3, gt=0)
    """AdamW's rate for embeddings and norms."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of the hidden matrices."""

    @property
    def decay_start(self) -> int:
        """First step of the falling part."""
        return self.num_steps - round(self.num_steps * self.decay_fraction)

    def rate_fraction(self, step: int) -> float:
        """Return the share of the full learning rate at `step`."""
        rising = min(1.0, (step + 1) / self.warmup_steps)
        falling = (self.num_steps - step) / max(self.num_steps - self.decay_start, 1)
        return min(rising, falling, 1.0)


class Recipe(StrictModel):
    """Everything that decides the tiny family, apart from the corpus."""

    seed: int = 20
    """Seed of initial weights and of the order of the text."""
    vocabulary_size: int = 2048
    """Tokenizer entries."""
    context_tokens: int = 1024
    """Longest sequence."""
    one_chat_in: int = 4
    """One documented function in so many becomes a chat."""
    target: ModelShape = ModelShape(
        num_layers=12,
        hidden_size=192,
        intermediate_size=512,
        num_heads=4,
        num_key_value_heads=2,
        head_size=64,
    )
    """The model that answers."""
    draft: ModelShape = ModelShape(
        num_layers=3,
        hidden_size=112,
        intermediate_size=384,
        num_heads=4,
        num_key_value_heads=2,
        head_size=64,
        tied_embeddings=False,
    )
    """The model that guesses."""
    target_schedule: Schedule = Schedule(num_steps=3000)
    """Training of the target on the text."""
    draft_schedule: Schedule = Schedule(
        num_steps=5000,
        tokens_per_step=1024,
        decay_fraction=0.5,
        matrix_rate=3e-3,
        vector_rate=3e-3,
    )
    """Distillation of the draft from the finished target."""
    draft_start_layers: tuple[int, ...] = (0, 5, 11)
    """Layers of the target that the draft's layers start as: the choice of `make bench
    NAME=draft-start`, which looks at training text only."""
    draft_hard_fraction: float = Field(default=0.3, ge=0, le=1)
    """Weight of the target's likeliest token in the draft's loss; the rest goes to its whole law."""
