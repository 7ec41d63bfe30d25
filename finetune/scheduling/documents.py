"""A scheduler as JSON-able values, and back: what a checkpoint holds of it."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from finetune.scheduling.fedast import FedAst, FedAstSettings
from finetune.scheduling.fedbuff import FedBuff, FedBuffSettings
from finetune.scheduling.fedcompass import FedCompass, FedCompassSettings
from finetune.scheduling.scheduler import Scheduler
from finetune.scheduling.synchronous import Synchronous, SynchronousSettings

SCHEMA_VERSION = 2
"""Version of the document's form."""

AnySettings = SynchronousSettings | FedCompassSettings | FedBuffSettings | FedAstSettings
SchedulerSettings = Annotated[AnySettings, Field(discriminator="kind")]
"""A job's choice of scheduler."""

SCHEDULERS: dict[str, type[Scheduler]] = {
    "synchronous": Synchronous,
    "fedcompass": FedCompass,
    "fedbuff": FedBuff,
    "fedast": FedAst,
}
"""By the kind in their settings."""


def make_scheduler(settings: AnySettings) -> Scheduler:
    """Return a scheduler that has seen no event."""
    return _adapter(SCHEDULERS[settings.kind]).validate_python({"settings": settings})


def to_document(scheduler: Scheduler) -> dict[str, Any]:
    """Return the whole state as values that JSON can hold; floats come back exactly."""
    kinds = {known: kind for kind, known in SCHEDULERS.items()}
    state = _adapter(type(scheduler)).dump_python(scheduler, mode="json")
    return {"schema_version": SCHEMA_VERSION, "kind": kinds[type(scheduler)], "state": state}


def from_document(document: Mapping[str, Any]) -> Scheduler:
    """Return the scheduler that a document describes.

    Raises:
        ValueError: If the version or the kind is unknown, or the state is not one of that kind.
    """
    version, kind = document.get("schema_version"), document.get("kind")
    if version != SCHEMA_VERSION:
        raise ValueError(f"scheduler state has version {version!r}, {SCHEMA_VERSION} is known")
    if kind not in SCHEDULERS:
        raise ValueError(f"scheduler kind {kind!r} is unknown; known are {', '.join(SCHEDULERS)}")
    try:
        scheduler = _adapter(SCHEDULERS[kind]).validate_python(document.get("state"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"scheduler state: {where}: {first['msg']}") from None
    # A field that is missing would begin anew, one that is unknown be dropped, without a word.
    if to_document(scheduler) != document:
        raise ValueError(
            "scheduler state: lacks fields or has unknown ones; take another checkpoint"
        )
    return scheduler


@cache
def _adapter(kind: type[Scheduler]) -> TypeAdapter[Scheduler]:
    # Making one takes longer than using it.
    return TypeAdapter(kind)
