"""The edge to accelerate: which device trains, in which precision."""

from typing import Final

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin

from finetune.errors import DeviceError
from finetune.local_config import LocalTrainingConfig

_ACCELERATES_WORD: Final = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def make_accelerator(config: LocalTrainingConfig) -> Accelerator:
    """Return a new accelerator: no count of steps and no loss scale of an earlier one is in it.

    Precision and accumulation are the job's, whatever `accelerate launch` put into the environment.

    Raises:
        DeviceError: If the machine lacks the device, or the device the precision.
    """
    precision = _ACCELERATES_WORD[config.precision]
    _forget_another(precision, is_cpu=config.device == "cpu")
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            cpu=config.device == "cpu",
            # As a plain argument, an environment variable would overrule it.
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=config.gradient_accumulation_steps, sync_with_dataloader=False
            ),
        )
    except ValueError as error:
        raise DeviceError(
            f"local_training: {config.precision} does not run here ({error})"
        ) from None
    found = accelerator.device.type
    if config.device == "cuda" and found != "cuda":
        raise DeviceError(
            f"local_training.device: cuda, and torch finds {found}; install a torch for CUDA, or "
            "take auto"
        )
    if config.precision == "float16" and found == "cpu":
        raise DeviceError(
            "local_training.precision: float16 needs a GPU and this process trains on the CPU; take "
            "bfloat16 or float32"
        )
    return accelerator


def _forget_another(precision: str, *, is_cpu: bool) -> None:
    """Let a job have its own device and precision in a process in which another job had others.

    accelerate keeps both for the process's life and refuses, or passes over, what differs.
    """
    kept = AcceleratorState._shared_state
    if kept and (kept.get("_mixed_precision"), kept.get("_cpu")) != (precision, is_cpu):
        AcceleratorState._reset_state(reset_partial_state=True)
