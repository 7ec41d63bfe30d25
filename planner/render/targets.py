"""The targets a plan can be rendered for: of a fleet, and of a training job."""

from collections.abc import Callable
from typing import Literal

from planner.fleet.fleet_plan import FleetPlan
from planner.render.compose import render_compose
from planner.render.fleet import RenderedFleet, read_fleet
from planner.render.kubernetes import render_kubernetes
from planner.render.llm_d import render_llm_d
from planner.render.local import render_local
from planner.render.megatron import render_megatron
from planner.render.options import Files, RenderOptions
from planner.render.skypilot import render_skypilot
from planner.render.torchtitan import render_torchtitan
from planner.render.training_job import TrainingJob, training_job
from planner.training.training_plan import TrainingPlan

TargetName = Literal["kubernetes", "llm-d", "skypilot", "compose", "local"]

TARGETS: dict[TargetName, Callable[[RenderedFleet, RenderOptions], Files]] = {
    "kubernetes": render_kubernetes,
    "llm-d": render_llm_d,
    "skypilot": render_skypilot,
    "compose": render_compose,
    "local": render_local,
}


TrainingTargetName = Literal["megatron", "torchtitan"]

TRAINING_TARGETS: dict[TrainingTargetName, Callable[[TrainingJob], Files]] = {
    "megatron": render_megatron,
    "torchtitan": render_torchtitan,
}


def render(plan: FleetPlan, target: TargetName, options: RenderOptions) -> Files:
    """Return the files that run `plan` on `target`.

    Raises:
        RenderError: If the plan cannot be run there; the message says what to do.
        UnknownNameError: If a device of the plan is in no catalogue.
    """
    return TARGETS[target](read_fleet(plan, options), options)


def render_training(plan: TrainingPlan, target: TrainingTargetName) -> Files:
    """Return the files that train after the placement of `plan` with `target`.

    Raises:
        RenderError: If it has no placement, or one that cannot be run there.
    """
    return TRAINING_TARGETS[target](training_job(plan))
