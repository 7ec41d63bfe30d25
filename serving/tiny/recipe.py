"""How the tiny family is made: shapes, batches, schedule. One frozen value, stored in the card."""

from typing import Self

from pydantic import Field, model_validator
from transformers import LlamaConfig

from planner.config import StrictModel
from serving.draft_training.recipe import HeadRecipe


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
    """AdamW's rate for embedding, head and norms."""
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
    """The model that guesses. Width, neurons and training steps were chosen by the cost of a step and
    the time of training; drafts of other widths were watched on held-out agreement on the way."""
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
    """Layers of the target that the draft's layers start as. The middle one was chosen among eight
    by `make bench NAME=draft-start`: one short run each (one seed, 3 % of the training), judged on
    text that the draft had not seen and the target had. The winner's margin, 0.015 of agreement, is
    within what another seed may change."""
    draft_start_batches: int = Field(default=4, gt=0)
    """Batches of training text on which the draft's start finds the target's main directions."""
    draft_hard_fraction: float = Field(default=0.3, ge=0, le=1)
    """Weight of the target's likeliest token in the draft's loss; the rest goes to its whole law."""
    head: HeadRecipe = HeadRecipe(
        seed=20,
        sequence_tokens=1024,
        batch_sequences=1,
        num_steps=3500,
        warmup_steps=60,
        decay_fraction=0.5,
        rate=4e-3,
        token_weight=1.0,
        num_depths=2,
        deep_fraction=0.25,
    )
    """Shape and training of the draft head."""
    head_stream_tokens: int = Field(default=786_432, gt=0)
    """Tokens of the training text, from its start, that the head is trained on."""

    @model_validator(mode="after")
    def _draft_fits_the_target(self) -> Self:
        """Check that the draft can start as the target made small."""
        draft, target = self.draft, self.target
        for name in ("num_heads", "num_key_value_heads", "head_size"):
            ours, theirs = getattr(draft, name), getattr(target, name)
            if ours != theirs:
                raise ValueError(f"draft.{name} is {ours}; give it the target's {theirs}")
        for name in ("hidden_size", "intermediate_size"):
            ours, theirs = getattr(draft, name), getattr(target, name)
            if ours > theirs:
                raise ValueError(f"draft.{name} is {ours}; give it at most the target's {theirs}")
        if draft.tied_embeddings:
            raise ValueError("draft.tied_embeddings is true; the draft's head is its own: untie it")
        return self

    @model_validator(mode="after")
    def _start_layers_exist(self) -> Self:
        """Check that every layer of the draft starts as a layer the target has."""
        draft, target, layers = self.draft, self.target, self.draft_start_layers
        if len(layers) != draft.num_layers:
            raise ValueError(
                f"draft_start_layers names {len(layers)} layers; name one for each of the draft's "
                f"{draft.num_layers}"
            )
        missing = [index for index in layers if not 0 <= index < target.num_layers]
        if missing:
            raise ValueError(
                f"draft_start_layers names layer {missing[0]}; the target's are 0 to "
                f"{target.num_layers - 1}"
            )
        return self
