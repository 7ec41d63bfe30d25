"""From the names a user types to the speed of a replica, by the planner's catalogues and model."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from planner.errors import PlannerError, UnknownNameError
from planner.hardware.catalogue import Catalogue, load_catalogue
from planner.hardware.coefficients import Coefficients, built_in_coefficients
from planner.hardware.find_model import find_model
from planner.hardware.gpu_spec import GpuSpec
from planner.hardware.model_spec import ModelSpec
from planner.speed.obstacle import Obstacle
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_speed import ReplicaSpeed, replica_speed
from serving.emulated.config import EmulatedConfig
from serving.errors import ModelError


@dataclass(frozen=True, slots=True)
class EmulatedReplica:
    """What is emulated, and how fast that is."""

    design: ReplicaDesign
    coefficients: Coefficients
    speed: ReplicaSpeed

    @property
    def vocabulary_size(self) -> int:
        """Token ids the model knows."""
        return self.design.model.vocabulary_parameters // self.design.model.hidden_size

    def described(self) -> dict[str, object]:
        """Return what `/version` tells of it."""
        design = self.design
        return {
            "model": design.model.name,
            "gpu": design.gpu.name,
            "tensor_parallel": design.tensor_parallel,
            "pipeline_parallel": design.pipeline_parallel,
            "weight_dtype": design.weight_dtype,
            "kv_dtype": design.kv_dtype,
            "kv_capacity_tokens": self.speed.kv_capacity_tokens,
            "max_sequences": design.max_sequences,
            "max_batched_tokens": design.max_batched_tokens,
            "coefficients": self.coefficients.name,
            "coefficients_of": self.coefficients.description,
        }


def find_replica(config: EmulatedConfig) -> EmulatedReplica:
    """Return the replica that a configuration names.

    Raises:
        ModelError: If a name is unknown or fits several models, or the model cannot run so.
    """
    try:
        catalogue = load_catalogue(config.catalogues)
        design = ReplicaDesign(
            find_device(config.hardware, catalogue),
            find_sizes(config.model, catalogue),
            tensor_parallel=config.tensor_parallel,
            pipeline_parallel=config.pipeline_parallel,
            weight_dtype=config.weight_dtype,
            kv_dtype=config.kv_dtype,
            memory_fraction=config.memory_fraction,
            max_sequences=config.max_sequences,
            max_batched_tokens=config.max_batched_tokens,
        )
        coefficients = built_in_coefficients(config.coefficients)
    except (PlannerError, ValueError) as error:
        raise ModelError(str(error)) from None
    speed = replica_speed(design, coefficients)
    if isinstance(speed, Obstacle):
        raise ModelError(
            f"{design.model.name} cannot be emulated on {design.gpu.name}: {speed.text}"
        )
    return EmulatedReplica(design, coefficients, speed)


def find_device(name: str, catalogue: Catalogue) -> GpuSpec:
    """Return the device of that name, or the best of those whose names begin so.

    The best has the most memory, and among equals the fastest: `a100` is A100-80GB, not its PCIe
    form.

    Raises:
        UnknownNameError: If there is none.
    """
    begin_so = [gpu for gpu in catalogue.gpus if gpu.name.casefold().startswith(name.casefold())]
    if not begin_so or any(gpu.name.casefold() == name.casefold() for gpu in begin_so):
        return catalogue.gpu(name)
    return max(begin_so, key=lambda gpu: (gpu.memory_bytes, gpu.bandwidth_bytes_per_second))


def find_sizes(name: str, catalogue: Catalogue) -> ModelSpec:
    """Return the sizes of the model of that name, or of the only one whose name begins so.

    Raises:
        UnknownNameError: If there is none, or several begin so.
        PlannerError: If its folder or the hub has no sizes.
    """
    listed = _beginning(name, (model.name for model in catalogue.models))
    if len(listed) == 1:
        return find_model(listed[0], catalogue)
    if listed:
        raise UnknownNameError("single model", name, listed, "name one of these")
    return find_model(name, catalogue)


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    """Return the hub ids whose last part begins with `word`; whole ids and folders have none."""
    if "/" in word or (Path(word) / "config.json").is_file():
        return []
    return [
        name for name in names if name.rpartition("/")[2].casefold().startswith(word.casefold())
    ]
