"""The family's model card as data: `card.json`, from which the README is rendered."""

from typing import Literal

from pydantic import Field

from planner.config import StrictModel
from serving.tiny.costs import StepCosts
from serving.tiny.recipe import Recipe


class ShippedFile(StrictModel):
    """One file of the family folder."""

    path: str
    """Path below the family folder."""
    size_bytes: int = Field(ge=0)
    """Length of the file."""
    sha256: str
    """SHA-256 of its content, hexadecimal."""


class TrainingFile(StrictModel):
    """One source file that was trained on."""

    path: str
    """Path below the standard library."""
    sha256: str
    """SHA-256 of its text as UTF-8, hexadecimal."""


class HeldOutFile(TrainingFile):
    """One source file that was kept from training, and how the models fare on it."""

    num_tokens: int = Field(gt=0)
    """Tokens predicted: all of the file, the first one after the end-of-text id."""
    target_nats_per_token: float
    """Loss of the shipped target."""
    draft_nats_per_token: float
    """Loss of the shipped draft."""
    bigram_nats_per_token: float
    """Loss of a Kneser-Ney bigram counted over the training files."""
    unigram_nats_per_token: float
    """Loss of a unigram counted over the training files."""
    agreement_fraction: float = Field(ge=0, le=1)
    """Share of positions where draft and target find the same token likeliest."""


class TrainingTime(StrictModel):
    """How long one model trained, over all resumed runs."""

    seconds: float = Field(default=0.0, ge=0)
    """Wall time of the training loop."""
    num_threads: int = Field(default=1, gt=0)
    """Processor threads of the last run."""


class ModelFacts(StrictModel):
    """Size and training of one model."""

    num_parameters: int = Field(gt=0)
    """Weights; the embedding, used at both ends, counts once."""
    weight_bytes: int = Field(gt=0)
    """Length of the weight file."""
    num_steps: int = Field(gt=0)
    """Optimiser steps."""
    num_training_tokens: int = Field(gt=0)
    """Tokens seen in training, repetitions counted."""
    training: TrainingTime
    """Time it took."""


class FamilyCard(StrictModel):
    """Everything the family's README states."""

    schema_version: Literal[2] = 2
    """Version of this document's schema."""
    python_version: str
    """The Python whose standard library is the text."""
    recipe: Recipe
    """Shapes, seeds and schedules."""
    target: ModelFacts
    """The model that answers."""
    draft: ModelFacts
    """The model that guesses."""
    step_costs: StepCosts | None
    """Measured cost of single steps; null where none was measured."""
    training_sha256: str
    """SHA-256 over the training files' lines "path sha256", in order."""
    held_out_files: list[HeldOutFile] = Field(min_length=1)
    """Files kept from training, sorted by path."""
    near_duplicate_paths: list[str]
    """Files neither trained on nor judged: held out, yet much like a training file."""
    training_files: list[TrainingFile]
    """Files trained on, sorted by path."""
    shipped_files: list[ShippedFile]
    """Every file of the family folder but README.md, card.json and `head`, which has its own."""

    @property
    def num_held_out_tokens(self) -> int:
        """Predicted tokens of all held-out files."""
        return sum(file.num_tokens for file in self.held_out_files)

    @property
    def target_nats_per_token(self) -> float:
        """The target's held-out loss over all tokens."""
        return self._mean([file.target_nats_per_token for file in self.held_out_files])

    @property
    def draft_nats_per_token(self) -> float:
        """The draft's held-out loss over all tokens."""
        return self._mean([file.draft_nats_per_token for file in self.held_out_files])

    @property
    def bigram_nats_per_token(self) -> float:
        """The bigram's held-out loss over all tokens."""
        return self._mean([file.bigram_nats_per_token for file in self.held_out_files])

    @property
    def unigram_nats_per_token(self) -> float:
        """The unigram's held-out loss over all tokens."""
        return self._mean([file.unigram_nats_per_token for file in self.held_out_files])

    @property
    def agreement_fraction(self) -> float:
        """Greedy agreement over all held-out tokens."""
        return self._mean([file.agreement_fraction for file in self.held_out_files])

    @property
    def shipped_bytes(self) -> int:
        """Length of all shipped files together."""
        return sum(file.size_bytes for file in self.shipped_files)

    def _mean(self, values: list[float]) -> float:
        pairs = zip(self.held_out_files, values, strict=True)
        return sum(file.num_tokens * value for file, value in pairs) / self.num_held_out_tokens
