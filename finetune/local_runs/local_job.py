"""The job file of `motley finetune local`: one model, one text, one process group."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from finetune.config import ClientData, Name
from planner.config import StrictModel
from planner.documents import read_document, read_text
from planner.training.training_plan import SolverName

MOST_SOLVER_SECONDS = 600
"""The other processes wait for a plan in an exchange, which has its own end."""


class LocalAdapter(StrictModel):
    """LoRA in place of the model's own weights."""

    rank: int = Field(gt=0, le=1024)
    """Rank of both factors."""
    alpha: float = Field(gt=0)
    """LoRA's alpha; the product of the factors is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = Field(min_length=1)
    """Names of the linear layers that get an adapter, such as `q_proj`; a suffix after a dot."""


class LocalJob(StrictModel):
    """Fine-tuning by one process group: a process, those of a machine, or those of several."""

    schema_version: Literal[1]
    """Version of this file's form."""
    name: Name
    """Name of the job, recorded with the result."""
    model: str = Field(min_length=1)
    """Base model: a local folder, or the id of a model on the Hugging Face hub. Every process
    reads it."""
    data: ClientData
    """Where the text is. The first process alone reads it."""
    adapter: LocalAdapter | None
    """What is trained; null: the model's own weights, all of them."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps. Either these or `epochs`."""
    epochs: int | None = Field(default=None, gt=0)
    """Times that every training document is seen; the last step takes what is left."""
    batch_size: int = Field(gt=0)
    """Documents of a step, each a sequence of its own, over all devices together."""
    max_tokens: int = Field(gt=1)
    """Longest sequence."""
    long_documents: Literal["drop", "cut"] = "drop"
    """What becomes of longer documents: left out, or cut behind `max_tokens`."""
    learning_rate: float = Field(gt=0)
    """AdamW's rate, constant after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate grows to `learning_rate`, in equal parts."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Decides the adapter's first weights, the order of the documents and dropout."""
    held_out_fraction: float = Field(gt=0, lt=1)
    """Share of the documents kept out of training, chosen whole by the hash of their text."""
    held_out_tokens: int = Field(default=16384, gt=1)
    """Most held-out tokens that are scored, before and after; at least one document is."""
    sharding: Literal["replicated", "fsdp2"] = "replicated"
    """Whether each process holds all weights, or a share (torch's FSDP2) and fetches the others'
    layer by layer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of training and judging. bfloat16 is mixed: weights that are trained and the
    optimiser stay float32."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and compute the rest again in the backward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU for each process where there is one, `cuda` refuses to train without."""
    cluster: Path | None = None
    """Cluster file that the steps are planned on, a device a process. By default this process
    group's devices, alike, with the links of their machine."""
    costs: Path | None = None
    """Costs that the steps are planned by, as `motley plan training --calibrate` makes them of a
    run's `steps.jsonl`: its times and rates count, and what memory a step needs is estimated from
    this job. By default times are estimated, too."""
    solver: SolverName = "heuristic"
    """Who plans a step while the one before it trains; `milp` improves on the heuristic."""
    solver_seconds: float = Field(default=5.0, gt=0, le=MOST_SOLVER_SECONDS)
    """Longest time that `milp` takes for a step."""
    plan: Path | None = None
    """A ready `training-plan.json` to follow, batch by batch, in place of planning each step. Its
    lengths are those that `motley finetune local --lengths` writes."""
    checkpoint_every: int = Field(default=10, gt=0)
    """Steps between two checkpoints; there is one at the end, too."""
    output: Path
    """Run folder: plans, checkpoint, metrics, and at the end the adapter or the model. A relative
    path starts at the working directory."""

    @field_validator("output", mode="before")
    @classmethod
    def _output_is_named(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("is empty; name the run's folder")
        return value

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            given = "neither is" if self.steps is None else "both are"
            raise ValueError(f"steps, epochs: {given} given; give one of them")
        if self.steps is not None and self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} are more than {self.steps} steps; lower it"
            )
        return self

    @model_validator(mode="after")
    def _plan_stands_alone(self) -> Self:
        for key in ("cluster", "costs"):
            if self.plan is not None and getattr(self, key) is not None:
                raise ValueError(f"{key}: the plan {self.plan} has its own; leave one of them out")
        return self


DECIDE_NOTHING = frozenset({"output", "checkpoint_every"})
"""Keys that may change within a run."""


PLANNING_FILES = ("plan", "costs", "cluster")
"""Keys that name files by which steps are planned."""


def read_local_job(path: Path) -> LocalJob:
    """Return the job in the YAML or JSON file at `path`.

    Raises:
        DocumentError: If it is no job; the message is one line: what, the value, what to do.
    """
    return read_document(path, LocalJob)


def differences(earlier: LocalJob, job: LocalJob) -> list[str]:
    """Return the keys that decide what a run computes and differ between two jobs."""
    return [
        name
        for name in LocalJob.model_fields
        if name not in DECIDE_NOTHING and getattr(earlier, name) != getattr(job, name)
    ]


def planning_digests(job: LocalJob) -> dict[str, str]:
    """Return SHA-256 of each file that steps are planned by, hexadecimal, by its key.

    Raises:
        DocumentError: If one cannot be read.
    """
    named = {key: getattr(job, key) for key in PLANNING_FILES}
    return {
        key: hashlib.sha256(read_text(path).encode()).hexdigest()
        for key, path in named.items()
        if path is not None
    }
