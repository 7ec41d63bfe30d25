"""Where the draft runs and how much it drafts, decided at start from what is measured here."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from planner.drafting.candidate import DraftPlace
from planner.drafting.cost_curve import CostCurve
from planner.speculation import plan_speculation
from serving.config import ServeConfig
from serving.engine import cost_curve
from serving.engine.drafter import Drafter
from serving.engine.drafting_policy import DraftSize
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_folder import is_head_folder
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import ChainDrafter
from serving.engine.pre_drafting import PreDrafter
from serving.engine.round_calibration import calibrate
from serving.engine.speculation_control import SpeculationControl, first_acceptance
from serving.errors import ModelError

logger = logging.getLogger(__name__)

_PLACING_SECONDS = 2.0
"""Most time to measure one model on one device."""


def plan_drafting(
    config: ServeConfig, target: FlatModel, drafter: Drafter | None, device: str
) -> SpeculationControl | None:
    """Measure rounds and return who plans them; None where their size is set."""
    if drafter is None or config.draft_tokens != "auto":
        return None
    most = DraftSize(config.num_draft_nodes, config.most_draft_depth)
    ahead = drafter if isinstance(drafter, PreDrafter) else None
    # Drafts that are ready would be timed as free: the plan reckons with their share by itself.
    costs = calibrate(
        target,
        ahead.drafter if ahead else drafter,
        most=most,
        max_sequences=config.max_sequences,
        kv_bytes=config.kv_bytes,
    )
    beam_width = config.draft_tree.beam_width if config.draft_tree else 1
    return SpeculationControl(
        costs,
        device=device,
        most=most,
        beam_width=beam_width,
        ready_fraction=(lambda: ahead.ready_fraction) if ahead else None,
    )


def draft_ahead(config: ServeConfig, drafter: Drafter | None, device: str) -> Drafter | None:
    """Return the drafter, made to draft while the target verifies where that is asked for or pays.

    Args:
        config: What was asked for.
        drafter: What drafts.
        device: Where it does.
    """
    if drafter is None or config.pre_draft == "off":
        return drafter
    if not isinstance(drafter, ChainDrafter | HeadChainDrafter):
        logger.info("pre-drafting is off reason=only chains of a model or head are drafted ahead")
        return drafter
    shared = _shared_device(config, device)
    if shared is not None and config.pre_draft == "auto":
        logger.info("pre-drafting is off reason=draft and target share %s", shared)
        return drafter
    if shared is not None:
        logger.warning("pre-drafting is on though draft and target share %s: expect a loss", shared)
    else:
        logger.info("pre-drafting is on reason=the draft has %s to itself", device)
    synchronize = None
    if device.startswith("cuda"):
        synchronize = torch.cuda.current_stream(torch.device(device)).synchronize
    return PreDrafter(drafter, synchronize=synchronize)


def _shared_device(config: ServeConfig, device: str) -> str | None:
    """Return the device on which both would compute at once; None where there is none."""
    if device.startswith("cpu") and config.target_device.startswith("cpu"):
        return "the processor's cores"
    return device if _numbered(device) in map(_numbered, _target_devices(config)) else None


def _curve(model: TokenModel, name: str) -> CostCurve:
    measured = cost_curve.measure_curve(model, name=name, most_seconds=_PLACING_SECONDS)
    seconds = measured.seconds_by_rows
    return CostCurve(tuple(seconds), tuple(seconds.values()))


def draft_device(
    config: ServeConfig,
    target: FlatModel,
    load: Callable[[str], FlatModel] | None,
    *,
    devices: Sequence[str] | None = None,
    curve: Callable[[TokenModel, str], CostCurve] = _curve,
) -> str:
    """Return where the draft runs: as set, or the device where it gains most.

    Args:
        config: What was asked for.
        target: As it will be served; its keys and values count as given to it.
        load: Loads the draft model onto a device; None where what drafts is no model of its own.
        devices: To choose among; None: the processor and every CUDA device.
        curve: Measures a model's forward by rows; its second argument names it in the log.

    Raises:
        ModelError: If no device has room for the draft.
    """
    if config.draft_device != "auto":
        return config.draft_device
    if devices is None:
        devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    drafts = config.drafter == "model" and config.draft is not None
    if drafts and is_head_folder(Path(str(config.draft))) and len(devices) > 1:
        logger.info("placed draft device=%s reason=a head is small", devices[1])
        return devices[1]
    if load is None or len(devices) == 1:
        reason = "there is no other" if len(devices) == 1 else "only a draft model is placed"
        logger.info("placed draft device=%s reason=%s", devices[0], reason)
        return devices[0]
    num_tokens = config.kv_bytes // target.kv_bytes_per_token
    places = []
    for name in devices:
        try:
            taken = _taken(config, name)
            place = _place(name, load(name), curve, num_tokens=num_tokens, taken_bytes=taken)
            places.append(place)
        except ModelError as error:
            logger.warning("no place for the draft device=%s reason=%s", name, error)
    return best_device(curve(target, "target"), places, depth=config.most_draft_depth)


def best_device(target: CostCurve, places: Sequence[DraftPlace], *, depth: int) -> str:
    """Return the device on which one request gains most, or loses least; logged with the reasons.

    Args:
        target: Seconds of one forward of the target.
        places: Devices, with what the draft costs and takes up there.
        depth: Tokens drafted at most.

    Raises:
        ModelError: If none of them has room for the draft.
    """
    most_rows = min(depth + 1, target.most_rows)
    plan = plan_speculation(target, places, first_acceptance(depth, 1), most_rows=most_rows)
    reasons = "; ".join(plan.reasons)
    drafting = [candidate for candidate in plan.candidates if candidate.device is not None]
    if not drafting:
        raise ModelError(f"no device has room for the draft: {reasons}; name one or drop --draft")
    device = max(drafting, key=lambda candidate: candidate.speed_up).device
    assert device is not None, "only drafting candidates were kept"
    logger.info("placed draft device=%s reason=%s", device, reasons)
    return device


def _place(
    device: str,
    draft: FlatModel,
    curve: Callable[[TokenModel, str], CostCurve],
    *,
    num_tokens: int,
    taken_bytes: float,
) -> DraftPlace:
    weights = sum(p.numel() * p.element_size() for p in draft.model.parameters())
    return DraftPlace(
        device=device,
        # The draft is loaded: what it takes is counted as free again.
        free_bytes=max(0.0, _free_bytes(device) + weights - taken_bytes),
        needed_bytes=weights + num_tokens * draft.kv_bytes_per_token,
        step_seconds=curve(draft, f"draft on {device}"),
    )


def _taken(config: ServeConfig, device: str) -> float:
    """Return what the target will still take there, in bytes: its keys and values."""
    is_theirs = _numbered(device) in map(_numbered, _target_devices(config))
    return float(config.kv_bytes) if is_theirs else 0.0


def _target_devices(config: ServeConfig) -> list[str]:
    is_split = config.target_gpu_layers != 0
    return [config.target_device, *([config.target_gpu_device] if is_split else [])]


def _numbered(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    return kind, int(index or 0)


def _free_bytes(device: str) -> float:
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
