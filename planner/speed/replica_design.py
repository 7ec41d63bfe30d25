"""One replica as it would be deployed: model, devices, and how the one is spread over the other."""

from dataclasses import dataclass

from planner.hardware.gpu_spec import DType, GpuSpec
from planner.hardware.model_spec import BYTES_PER_PARAMETER, ModelSpec


@dataclass(frozen=True, slots=True)
class ReplicaDesign:
    """A model on `tensor_parallel * pipeline_parallel` devices of one type."""

    gpu: GpuSpec
    model: ModelSpec
    tensor_parallel: int = 1
    """Devices that share every layer."""
    pipeline_parallel: int = 1
    """Groups of layers, one after another."""
    weight_dtype: DType = "bfloat16"
    kv_dtype: DType = "bfloat16"
    memory_fraction: float = 0.9
    """Share of the memory that the engine may use (vLLM's `--gpu-memory-utilization`)."""
    max_sequences: int = 256
    """Sequences that run at once (vLLM's `--max-num-seqs`)."""
    max_batched_tokens: int = 2048
    """Tokens of one step, prompts and answers (vLLM's `--max-num-batched-tokens`)."""

    def __post_init__(self) -> None:
        """Check the numbers that no catalogue has checked.

        Raises:
            ValueError: If one is out of range.
        """
        for name in ("tensor_parallel", "pipeline_parallel", "max_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.max_batched_tokens < self.max_sequences:
            raise ValueError(
                f"max_batched_tokens is {self.max_batched_tokens}, below the "
                f"{self.max_sequences} tokens of max_sequences; raise it"
            )
        if not 0 < self.memory_fraction <= 1:
            raise ValueError(f"memory_fraction is {self.memory_fraction}; give 0 to 1, without 0")

    @property
    def num_devices(self) -> int:
        """Devices of the replica."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def stage_layers(self) -> int:
        """Layers of the fullest pipeline stage."""
        return -(-self.model.num_layers // self.pipeline_parallel)

    @property
    def stage_fraction(self) -> float:
        """Share of all layers in the fullest stage."""
        return self.stage_layers / self.model.num_layers

    @property
    def kv_shard_fraction(self) -> float:
        """Share of a layer's cache that each device of a stage keeps.

        A device keeps at least one key-value head: beyond as many devices, heads are repeated.
        """
        return 1 / min(self.tensor_parallel, self.model.num_key_value_heads)

    @property
    def activation_bytes_per_value(self) -> float:
        """What one number between layers takes; quantised weights leave it at 16 bits."""
        return max(2.0, BYTES_PER_PARAMETER[self.weight_dtype])
