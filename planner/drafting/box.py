"""Two models and some devices as the numbers a speculation plan is made from."""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.drafting.candidate import DraftPlace, Load, Overlap
from planner.drafting.cost_curve import CostCurve
from planner.drafting.cost_curve_file import CostCurveFile, MeasuredDraft
from planner.drafting.draft_tree import Acceptance
from planner.drafting.predicted_costs import (
    ROUND_TRIP_SECONDS,
    default_dtype,
    kv_dtype,
    predicted_curve,
)
from planner.errors import SpeculationError
from planner.hardware.gpu_spec import DType, GpuSpec
from planner.hardware.model_spec import ModelSpec
from planner.speculation import SpeculationPlan, plan_speculation

MEMORY_FRACTION = 0.9
"""Share of a device's memory that is free where nothing else is said."""

_GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True)
class Box:
    """A machine with a target on its first device and a draft to place."""

    target: ModelSpec
    draft: ModelSpec
    devices: tuple[GpuSpec, ...]
    """The first runs the target; the draft may run on any."""
    target_dtype: DType | None = None
    """Format of the target's weights; nothing: as its device is served by default."""
    draft_dtype: DType | None = None
    """Format of the draft's weights; nothing: as each device is served by default."""
    num_requests: int = 1
    context_tokens: int = 1024
    """Context of each request, prompt and answer so far."""
    gpu_memory_bytes: float | None = None
    """Memory free on each GPU; nothing: `MEMORY_FRACTION` of its data sheet's."""

    @property
    def names(self) -> tuple[str, ...]:
        """The devices' names, numbered where one is there twice."""
        names = [gpu.name for gpu in self.devices]
        return tuple(
            name if names.count(name) == 1 else f"{name}:{names[:i].count(name)}"
            for i, name in enumerate(names)
        )

    @property
    def dtype(self) -> DType:
        """Format of the target's weights."""
        return self.target_dtype or default_dtype(self.devices[0])

    def speculation_plan(
        self, acceptance: Acceptance, overlap: Overlap, measured: CostCurveFile | None = None
    ) -> SpeculationPlan:
        """Return whether drafting pays here, with predicted costs where none are measured.

        Raises:
            SpeculationError: As of `places`, or if the measured target does not reach the requests.
        """
        places = self.places({} if measured is None else measured.drafts)
        if measured is None:
            target = self._curve(self.target, self.devices[0], self.dtype)
        else:
            target = measured.target.curve()
        if target.most_rows < self.num_requests:
            raise SpeculationError(
                f"the measured target ends at {target.most_rows} rows, {self.num_requests} "
                "requests fill more; measure further or lower --concurrent-requests"
            )
        load = Load(num_requests=self.num_requests)
        return plan_speculation(target, places, acceptance, load=load, overlap=overlap)

    def places(self, measured: Mapping[str, MeasuredDraft]) -> tuple[DraftPlace, ...]:
        """Return every device as a place for the draft, the target's last.

        Args:
            measured: Measured drafts by device, in place of predicted ones.

        Raises:
            SpeculationError: If the target does not fit its device, a context is too long, a
                device cannot compute in the draft's format, or a measured device is none of these.
        """
        self._check_context()
        for name in measured:
            if name not in self.names:
                raise SpeculationError(
                    f"the curve file has a draft on {name}, --hardware names "
                    f"{', '.join(self.names)}; correct one of them"
                )
        free = [self._free_bytes(gpu) for gpu in self.devices]
        taken = self._bytes(self.target, self.devices[0], self.dtype)
        if taken > free[0]:
            raise SpeculationError(
                f"{self.target.name} in {self.dtype} with {self._contexts} takes "
                f"{taken / _GIBIBYTE:.1f} GiB and {self.names[0]} has {free[0] / _GIBIBYTE:.1f} GiB "
                "free; name a larger device first or narrower weights"
            )
        free[0] -= taken
        order = [*range(1, len(self.devices)), 0]
        return tuple(self._place(i, free[i], measured.get(self.names[i])) for i in order)

    def _place(self, index: int, free_bytes: float, measured: MeasuredDraft | None) -> DraftPlace:
        gpu = self.devices[index]
        dtype = self.draft_dtype or default_dtype(gpu)
        is_apart = index > 0
        if measured is None:
            curve, seconds = self._curve(self.draft, gpu, dtype), ROUND_TRIP_SECONDS * is_apart
        else:
            curve, seconds = measured.curve(), measured.round_seconds
        return DraftPlace(
            device=self.names[index],
            free_bytes=free_bytes,
            needed_bytes=self._bytes(self.draft, gpu, dtype),
            step_seconds=curve,
            round_seconds=seconds,
            is_apart=is_apart,
        )

    @property
    def _contexts(self) -> str:
        plural = "s" * (self.num_requests > 1)
        return f"{self.num_requests} context{plural} of {self.context_tokens} tokens"

    def _check_context(self) -> None:
        for model in (self.target, self.draft):
            if self.context_tokens > model.max_context_tokens:
                raise SpeculationError(
                    f"{model.name} takes {model.max_context_tokens} tokens of context, "
                    f"--context-tokens is {self.context_tokens}; lower it"
                )

    def _free_bytes(self, gpu: GpuSpec) -> float:
        if gpu.kind == "gpu" and self.gpu_memory_bytes is not None:
            return self.gpu_memory_bytes
        return gpu.memory_bytes * MEMORY_FRACTION

    def _bytes(self, model: ModelSpec, gpu: GpuSpec, dtype: DType) -> float:
        cache = model.kv_bytes_per_token(kv_dtype(gpu, dtype))
        return model.weight_bytes(dtype) + self.num_requests * self.context_tokens * cache

    def _curve(self, model: ModelSpec, gpu: GpuSpec, dtype: DType) -> CostCurve:
        if gpu.compute_dtype(dtype) is None:
            known = " or ".join(sorted(gpu.dense_flops_per_second))
            raise SpeculationError(
                f"{gpu.name} cannot compute {model.name} in {dtype}; take {known}"
            )
        return predicted_curve(
            model,
            gpu,
            dtype=dtype,
            num_requests=self.num_requests,
            context_tokens=self.context_tokens,
        )
