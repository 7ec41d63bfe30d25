"""What an emulated replica pretends to be, as one frozen value."""

from pathlib import Path

from pydantic import Field

from planner.config import StrictModel
from planner.hardware.coefficients import DEFAULT_COEFFICIENTS
from planner.hardware.gpu_spec import DType


class EmulatedConfig(StrictModel):
    """A model on devices that are not there, and the limits of its engine."""

    model: str
    """Folder, hub id, or the beginning of one in the catalogue, such as `llama-3.1-8b`."""
    hardware: str
    """Device of the catalogue, or the beginning of its name, such as `a100`."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Devices that share every layer."""
    pipeline_parallel: int = Field(default=1, ge=1)
    """Groups of layers, one after another."""
    weight_dtype: DType = "bfloat16"
    """How the weights are stored."""
    kv_dtype: DType = "bfloat16"
    """How keys and values are stored."""
    memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Share of the devices' memory that the engine may use."""
    max_sequences: int = Field(default=256, ge=1)
    """Requests that run at once."""
    max_batched_tokens: int = Field(default=2048, ge=1)
    """Tokens of one step, prompts and answers."""
    max_waiting: int = Field(default=256, ge=0)
    """Requests that wait; one more is refused with status 429."""
    coefficients: str = DEFAULT_COEFFICIENTS
    """How far the engine stays from the devices' peaks: a set of the catalogue."""
    catalogues: tuple[Path, ...] = ()
    """Lists of devices and models of the user's own."""
    tokenizer: Path | None = None
    """Folder of the tokenizer; None takes the model's own where MODEL is a folder that has one, and
    that of the shipped tiny family elsewhere."""
    served_model_name: str
    """Name that clients ask for."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, named in the log."""
