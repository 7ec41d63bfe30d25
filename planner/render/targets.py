"""The targets a plan can be rendered for."""

from collections.abc import Callable
from typing import Literal

from planner.fleet.fleet_plan import FleetPlan
from planner.render.compose import render_compose
from planner.render.fleet import RenderedFleet, read_fleet
from planner.render.kubernetes import render_kubernetes
from planner.render.llm_d import render_llm_d
from planner.render.local import render_local
from planner.render.options import Files, RenderOptions
from planner.render.skypilot import render_skypilot

TargetName = Literal["kubernetes", "llm-d", "skypilot", "compose", "local"]

TARGETS: dict[TargetName, Callable[[RenderedFleet, RenderOptions], Files]] = {
    "kubernetes": render_kubernetes,
    "llm-d": render_llm_d,
    "skypilot": render_skypilot,
    "compose": render_compose,
    "local": render_local,
}


def render(plan: FleetPlan, target: TargetName, options: RenderOptions) -> Files:
    """Return the files that run `plan` on `target`.

    Raises:
        RenderError: If the plan cannot be run there; the message says what to do.
        UnknownNameError: If a device of the plan is in no catalogue.
    """
    return TARGETS[target](read_fleet(plan, options), options)
