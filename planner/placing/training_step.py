"""One optimiser step of a model under given degrees: its arithmetic, traffic and memory.

Weights, gradients and activations are 16-bit, the optimiser keeps 12 bytes a parameter (Adam with
float32 weights), nothing is computed twice, and attention keeps no scores. Embedding and head are
tables of equal size; between first and last stage a tied table is held twice.
"""

from dataclasses import dataclass
from functools import cached_property

from planner.hardware.model_spec import ModelSpec

STATE_BYTES_PER_PARAMETER = 16.0
"""Weight 2, gradient 2, Adam in float32 with the weight itself 12 (ZeRO, arXiv 1910.02054)."""

VALUE_BYTES = 2.0
"""Of a weight's gradient and of an activation on a link."""

SCORE_BYTES = 4.0
"""Of one of the head's scores, in float32."""

ACTIVATION_BYTES_PER_WIDTH = 34.0
"""Kept by a layer from forward to backward for one token and unit of width: Korthikanti et al.
(arXiv 2205.05198), table 2, tensor and sequence parallelism with attention computed again. With it a
7B model keeps 4.46 MB a token, where FlexSP measured 4.48."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """How one stage is shared out."""

    tensor: int
    """Devices that share each matrix and, between matrices, the sequence."""
    context: int
    """Devices that share each sequence and pass keys and values around."""
    data: int
    """Copies."""

    @property
    def num_devices(self) -> int:
        """Devices of one stage."""
        return self.tensor * self.context * self.data

    @property
    def num_gradient_holders(self) -> int:
        """Devices that hold the same weights and add their gradients up."""
        return self.context * self.data


@dataclass(frozen=True)
class TrainingStep:
    """What one optimiser step trains: sequences of one length."""

    model: ModelSpec
    sequence_tokens: int
    sequences_per_batch: int
    micro_batch_sequences: int = 1

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of one micro-batch of one copy."""
        return self.sequence_tokens * self.micro_batch_sequences

    def num_micro_batches(self, data: int) -> int:
        """Return how many micro-batches each of that many copies runs."""
        return self.sequences_per_batch // (data * self.micro_batch_sequences)

    @cached_property
    def layer_flops(self) -> float:
        """Forward arithmetic of one layer for one micro-batch; a token attends to those before it."""
        pairs = self.micro_batch_sequences * self.sequence_tokens**2 / 2
        linear = self.model.flops_per_token * self.micro_batch_tokens
        attention = self.model.attention_flops_per_pair * pairs
        return (linear + attention) / self.model.num_layers

    @cached_property
    def head_flops(self) -> float:
        """Forward arithmetic of the output head for one micro-batch."""
        return self.model.head_flops * self.micro_batch_tokens

    def activation_bytes(self, degrees: Degrees) -> float:
        """Return what one device passes to the next stage of one micro-batch."""
        tokens = self.micro_batch_tokens / degrees.context
        return tokens * self.model.hidden_size * VALUE_BYTES / degrees.tensor

    def reduced_bytes(self, degrees: Degrees) -> float:
        """Return the activations that a tensor group adds up, once, as they lie on one device."""
        return self.activation_bytes(degrees) * degrees.tensor

    def key_value_bytes(self, degrees: Degrees) -> float:
        """Return one device's keys and values of one layer and micro-batch."""
        tokens = self.micro_batch_tokens / degrees.context
        shards = min(degrees.tensor, self.model.num_key_value_heads)
        return tokens * self.model.kv_values_per_token * VALUE_BYTES / (self.num_layers * shards)

    @property
    def num_layers(self) -> int:
        """Decoder layers of the model."""
        return self.model.num_layers

    @cached_property
    def layer_parameters(self) -> float:
        """Parameters of one layer."""
        return self.model.layer_parameters / self.model.num_layers

    def table_parameters(self, stage: int, num_stages: int) -> float:
        """Return the parameters of the tables that a stage holds: first, last, or a tied one once."""
        tables = (stage == 0) + (stage == num_stages - 1)
        if tables == 2 and self.model.is_embedding_tied:
            tables = 1
        return float(tables * self.model.vocabulary_parameters)

    def layer_bytes(self, degrees: Degrees, stage: int, num_stages: int) -> float:
        """Return the memory of one more layer on each device of a stage.

        Under 1F1B stage k of p keeps the activations of p - k micro-batches, or of all there are.
        """
        kept = min(num_stages - stage, self.num_micro_batches(degrees.data))
        activations = self.reduced_bytes(degrees) / VALUE_BYTES * ACTIVATION_BYTES_PER_WIDTH * kept
        return (STATE_BYTES_PER_PARAMETER * self.layer_parameters + activations) / degrees.tensor

    def end_bytes(self, degrees: Degrees, stage: int, num_stages: int) -> float:
        """Return the memory of the stage's tables and of the head's scores on each device."""
        states = STATE_BYTES_PER_PARAMETER * self.table_parameters(stage, num_stages)
        vocabulary = self.model.vocabulary_parameters / self.model.hidden_size
        tokens = self.micro_batch_tokens / degrees.context
        scores = vocabulary * tokens * SCORE_BYTES if stage == num_stages - 1 else 0.0
        return (states + scores) / degrees.tensor
