"""What `motley serve` was asked to do, as one frozen value."""

from typing import Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel


class ServeConfig(StrictModel):
    """A model, its draft, where each runs, and the limits."""

    model: str
    """Local folder or hub id of the target."""
    draft: str | None = None
    """Local folder or hub id of the drafting model; None decodes one token a step."""
    target_device: str = "cpu"
    """Device of the target, in torch's notation."""
    draft_device: str = "cpu"
    """Device of the draft, in torch's notation."""
    draft_tokens: int = Field(default=4, ge=1, le=64)
    """Tokens drafted in one round."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights of target and draft; auto is float32 on a CPU and bfloat16 elsewhere."""
    target_quantization: Literal["auto", "float32", "bfloat16", "int8", "int4"] = "auto"
    """How the target's linears store their weights on a CPU; auto packs float32 weights and leaves
    other types and devices as they are."""
    served_model_name: str
    """Name that clients ask for."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, named in the log."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one forward; None is torch's choice."""
    kv_bytes: int = Field(default=1 << 30, gt=0)
    """Memory for the target's keys and values, in bytes."""
    max_sequences: int = Field(default=16, ge=1)
    """Requests that run at once."""
    max_waiting: int = Field(default=256, ge=0)
    """Requests that wait; one more is refused with status 429."""

    @model_validator(mode="after")
    def _quantize_float32_on_a_cpu(self) -> Self:
        is_packable = self.target_device.startswith("cpu") and self.dtype in ("auto", "float32")
        if self.target_quantization != "auto" and not is_packable:
            raise ValueError(
                f"target_quantization {self.target_quantization} is for a CPU and float32 rows, not "
                f"for target_device {self.target_device} with dtype {self.dtype}; drop one of them"
            )
        return self
