"""The `local_training:` block of a job: how clients compute their steps, not which steps they take."""

from typing import Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel


class LocalTrainingConfig(StrictModel):
    """What local training costs in memory and time; by default float32, nothing saved."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of training and judging. The narrow types are mixed: torch chooses by operation
    where they serve, while adapter, gradients and optimiser stay float32. float16 needs a GPU."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and compute the rest again in the backward pass: the same
    gradients in less memory, for one more forward pass a step."""
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    """Equal parts into which the `batch_size` sequences of a step are cut, one of them in memory at
    a time. The step is the same, to rounding."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one, `cuda` refuses to train without; which of several is
    the environment's to say (CUDA_VISIBLE_DEVICES). GPUs do not always add in one order: a run that
    is continued there ends near the unbroken one, on the CPU at the same bits."""
    processes: int = Field(default=1, gt=0, le=64)
    """Processes of one client that take each step together, a GPU each or a share of the processors:
    sequence-parallel groups where a sequence needs several, else each its own sequences. The update
    is that of one process, to rounding; a model with dropout draws other masks."""

    @model_validator(mode="after")
    def _processes_fit(self) -> Self:
        if self.processes > 1 and self.precision == "float16":
            raise ValueError(
                f"processes: {self.processes} with precision float16, whose loss scale they do not "
                "share; take bfloat16 or float32"
            )
        if self.processes > 1 and self.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps: {self.gradient_accumulation_steps} with processes "
                f"{self.processes}, whose plan cuts the batch as memory asks; leave it out"
            )
        return self


FLOAT32 = LocalTrainingConfig()
"""What a job that says nothing about local training gets."""
