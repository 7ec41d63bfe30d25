"""The `scheduling:` block of a job: who trains when, in which time, and what stands in for the absent."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from finetune.scheduling.documents import AnySettings
from finetune.scheduling.fedast import FedAstSettings
from finetune.scheduling.fedbuff import FedBuffSettings
from finetune.scheduling.fedcompass import FedCompassSettings
from finetune.scheduling.synchronous import SynchronousSettings
from planner.config import StrictModel


class MachineConfig(StrictModel):
    """A client's machine and link, as the virtual clock believes them."""

    seconds_per_step: float = Field(gt=0)
    """Of local training."""
    download_bytes_per_second: float = Field(gt=0)
    """From the server."""
    upload_bytes_per_second: float = Field(gt=0)
    """To the server."""


class VirtualClockConfig(StrictModel):
    """Times that are computed: real training in one process, in an order that depends on the job alone."""

    machines: dict[str, MachineConfig] = Field(min_length=1)
    """By client; each of the job's has one."""


class FedStaleConfig(StrictModel):
    """The last change of every client stands in for it in rounds without it; an adapter of memory each."""

    beta: float = Field(gt=0, le=1)
    """How far it is believed; 1 is FedVARP."""


class _InAJob(StrictModel):
    """What every scheduler of a job has beside its own settings."""

    virtual_clock: VirtualClockConfig | None = None
    """Compute times in place of measuring them; null: real time, and in one process the clients then
    train one after the other, so that a measured speed includes waiting for the others."""
    most_refusals: int = Field(default=3, gt=0)
    """A client refused so often in a row is left out until it connects again, or the job is run
    again; under the virtual clock to the end."""


class SynchronousScheduling(SynchronousSettings, _InAJob):
    """Rounds that end together, with chosen clients or a longest time."""

    fedstale: FedStaleConfig | None = None
    """Remember the changes of clients that are absent from a round; null: none."""

    @model_validator(mode="after")
    def _rate_is_one(self) -> Self:
        if self.server_rate != 1:
            raise ValueError(
                f"server_rate: {self.server_rate:g}; a job's rounds are averaged by its "
                "`aggregation`, leave it out"
            )
        return self


class FedCompassScheduling(FedCompassSettings, _InAJob):
    """Groups whose members answer together."""


class FedBuffScheduling(FedBuffSettings, _InAJob):
    """Each client at its own pace; a version every so many answers."""


class FedAstScheduling(FedAstSettings, _InAJob):
    """Several adapters over one pool of clients, allotted by measured progress."""


SchedulingConfig = Annotated[
    SynchronousScheduling | FedCompassScheduling | FedBuffScheduling | FedAstScheduling,
    Field(discriminator="kind"),
]

_SETTINGS: dict[str, type[AnySettings]] = {
    "synchronous": SynchronousSettings,
    "fedcompass": FedCompassSettings,
    "fedbuff": FedBuffSettings,
    "fedast": FedAstSettings,
}


def settings_of(config: AnySettings) -> AnySettings:
    """Return a block's own part, as `documents.make_scheduler` takes it."""
    settings = _SETTINGS[config.kind]
    return settings.model_validate(config.model_dump(include=set(settings.model_fields)))


def with_job_defaults(content: Any) -> Any:
    """Return a job's content with what its `scheduling:` block takes from its other keys.

    Steps and seed are the job's, FedCompass goes down to a fifth of the steps, buffers hold half of
    the clients, and FedAST trains all of the job's adapters. What the block says itself stays.
    """
    block = content.get("scheduling") if isinstance(content, Mapping) else None
    if not isinstance(block, Mapping):
        return content
    block = {"kind": "synchronous", **block}
    return {**content, "scheduling": {**_defaults(block["kind"], content), **block}}


def _defaults(kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    steps, seed = content.get("local_steps"), content.get("seed", 0)
    if kind == "fedcompass":
        least = max(1, steps // 5) if isinstance(steps, int) else steps
        return {"least_steps": least, "most_steps": steps}
    half = (_length(content.get("clients")) + 1) // 2
    match kind:
        case "synchronous":
            return {"local_steps": steps, "seed": seed}
        case "fedbuff":
            return {"local_steps": steps, "seed": seed, "buffer_size": half}
        case "fedast":
            adapters = content.get("adapters") or ()
            names = [one["name"] for one in adapters if isinstance(one, Mapping) and "name" in one]
            return {"local_steps": steps, "buffer_size": half, "adapters": names}
    return {}


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else 1
