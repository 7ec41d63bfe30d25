"""What `motley serve --engine vllm` was asked to do, as one frozen value."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.hardware.gpu_spec import DType


class VllmConfig(StrictModel):
    """A model for vLLM, where it runs, and its limits; None is vLLM's own default."""

    model: str
    """Local folder or hub id; with a plan, the name of a model there."""
    served_model_name: str
    """Name that clients ask for."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Which build of vLLM runs; auto is the GPU's where there is a driver of one."""
    python: Path | None = None
    """An interpreter that has vLLM; None makes an environment in the user's cache."""
    plan: Path | None = None
    """A fleet plan whose row for the model gives the arguments."""
    offer: str | None = None
    """Which row of the plan, where the model has several."""
    draft: str | None = None
    """Model that guesses ahead."""
    drafter: Literal["model", "ngram", "none"] = Field(
        default_factory=lambda fields: "none" if fields.get("draft") is None else "model"
    )
    """What guesses ahead."""
    draft_tokens: int = Field(default=4, ge=1, le=64)
    """Guesses of one round."""
    weight_dtype: DType | None = None
    """How weights are stored; fp8 quantises while loading."""
    tensor_parallel: int | None = Field(default=None, ge=1)
    """Devices that share every layer."""
    max_sequences: int | None = Field(default=None, ge=1)
    """Requests that run at once."""
    kv_bytes: int | None = Field(default=None, gt=0)
    """Memory for keys and values, in bytes; on a CPU whole GiB."""
    threads: int | None = Field(default=None, ge=1)
    """Cores a CPU build may compute on."""
    max_adapters: int = Field(default=4, ge=0)
    """LoRA adapters in one batch; 0 serves none, which leaves compilation on."""
    max_adapter_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """Largest rank of an adapter."""
    start_seconds: float = Field(default=1800, gt=0)
    """Longest that loading may take."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one, named in the log."""
    engine_arguments: tuple[str, ...] = ()
    """Further words for vLLM, as they are."""

    @model_validator(mode="after")
    def _drafts_with_what_there_is(self) -> Self:
        if self.drafter == "model" and self.draft is None:
            raise ValueError("drafter model needs a draft; name one, or choose ngram or none")
        if self.drafter == "ngram" and self.draft is not None:
            raise ValueError(f"drafter ngram does not use draft {self.draft}; drop one of the two")
        return self

    @model_validator(mode="after")
    def _repeats_no_plan(self) -> Self:
        planned = ("weight_dtype", "tensor_parallel", "max_sequences")
        repeated = [name for name in planned if getattr(self, name) is not None]
        if self.plan is not None and repeated:
            raise ValueError(f"the plan gives {', '.join(repeated)}; drop them or the plan")
        if self.plan is None and self.offer is not None:
            raise ValueError(f"offer {self.offer} is a row of a plan; name the plan")
        return self
