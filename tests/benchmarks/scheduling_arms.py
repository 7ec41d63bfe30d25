"""The schedulers under comparison: each one's grid, and one run of one of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from benchmarks.scheduling_quadratics import (
    NUM_COORDINATES,
    NUM_DOMAINS,
    Quadratics,
    Several,
    fleet,
)

from finetune.scheduling.documents import SchedulerSettings, make_scheduler
from finetune.scheduling.fedast import FedAst, FedAstSettings
from finetune.scheduling.fedbuff import FedBuffSettings
from finetune.scheduling.fedcompass import FedCompassSettings
from finetune.scheduling.staleness import Polynomial
from finetune.scheduling.synchronous import SynchronousSettings
from finetune.virtual_clock import VirtualClock

STEPS = (2, 5, 10, 20, 40, 80)
LEARNING_RATES = (0.1,)
SERVER_RATES = (1.0, 2.0, 3.0)
EXPONENTS = (0.1, 0.5)
BUFFER_FRACTIONS = (1 / 16, 1 / 4, 1 / 2)
LEAST_OVER_MOST = 1 / 10
START = {"w": np.zeros(NUM_COORDINATES, np.float32)}

BASELINE = "FedAvg"
ARMS = (
    BASELINE,
    "FedCompass",
    "FedCompass, equal steps",
    "FedBuff",
    "FedAvg, server rate tuned",
    "FedCompass, both",
)
"""Local steps and learning rate are tuned for every arm, staleness and buffer where there is one; the
server rate is 1 but in the last two."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings and the learning rate to train with."""

    settings: SchedulerSettings
    learning_rate: float


def grid(arm: str, num_clients: int) -> Iterator[Candidate]:
    """Return what an arm may be tuned to."""
    rates = SERVER_RATES if arm in ARMS[-2:] else SERVER_RATES[:1]
    for learning_rate, steps, rate in product(LEARNING_RATES, STEPS, rates):
        for settings in _settings(arm, num_clients, steps, rate):
            yield Candidate(settings, learning_rate)


def _settings(arm: str, num_clients: int, steps: int, rate: float) -> Iterator[SchedulerSettings]:
    if arm.startswith("FedAvg"):
        yield SynchronousSettings(local_steps=steps, server_rate=rate)
        return
    for exponent in EXPONENTS:
        staleness = Polynomial(exponent=exponent)
        if arm.startswith("FedCompass"):
            yield FedCompassSettings(
                least_steps=max(round(steps * LEAST_OVER_MOST), 1),
                most_steps=steps,
                first_steps=steps if arm == "FedCompass" else None,
                server_rate=rate,
                staleness=staleness,
                step_exponent=0.0 if arm == "FedCompass" else 1.0,
            )
            continue
        for fraction in BUFFER_FRACTIONS:
            yield FedBuffSettings(
                local_steps=steps,
                buffer_size=buffer_size(fraction, num_clients),
                server_rate=rate,
                staleness=staleness,
            )


def buffer_size(fraction: float, num_clients: int) -> int:
    """Return so many of the clients, at least 2."""
    return max(round(fraction * num_clients), 2)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run.

    Attributes:
        target_seconds: Virtual time at which the target was reached; None if it was not.
        loss_fall: Of the loss over all clients, at the end.
        slowest_fall: Of the slowest domain's loss, at the end.
        num_events: Events that happened.
    """

    target_seconds: float | None
    loss_fall: float
    slowest_fall: float
    num_events: int


def run_one(
    settings: SchedulerSettings,
    task: Quadratics,
    *,
    num_clients: int,
    seed: int,
    target: float,
    until_seconds: float,
    stop_at_target: bool,
) -> Outcome:
    """Train one adapter until the target or the time is reached."""
    clock = VirtualClock(make_scheduler(settings), task, fleet(num_clients, seed=seed), {"": START})
    seen, reached = 0, None

    def watch(now: VirtualClock) -> bool:
        nonlocal seen, reached
        if now.num_aggregations > seen and reached is None:
            seen = now.num_aggregations
            progress = task.progress(now.adapters[""])
            if progress >= target:
                reached = now.now_seconds
            # What has run away does not come back.
            return progress > -1 and not (stop_at_target and reached is not None)
        return True

    clock.run(until_seconds=until_seconds, on_event=watch)
    w = clock.adapters[""]["w"].astype(np.float64)
    last = NUM_DOMAINS - 1
    slowest_fall = task.domain_loss(0 * w, last) - task.domain_loss(w, last)
    return Outcome(reached, task.base_loss - task.loss(w), slowest_fall, clock.num_events)


def run_together(
    settings: FedAstSettings,
    tasks: dict[str, Quadratics],
    *,
    num_clients: int,
    seed: int,
    target: float,
    until_seconds: float,
) -> float | None:
    """Train several adapters at once; return when the last one reached the target."""
    scheduler = make_scheduler(settings)
    assert isinstance(scheduler, FedAst)
    start = dict.fromkeys(tasks, START)
    clock = VirtualClock(scheduler, Several(tasks), fleet(num_clients, seed=seed), start)
    seen, missing = 0, set(tasks)

    def watch(now: VirtualClock) -> bool:
        nonlocal seen
        if now.num_aggregations > seen:
            seen = now.num_aggregations
            for name in sorted(missing):
                progress = tasks[name].progress(now.adapters[name])
                if progress >= target:
                    missing.discard(name)
                    now.carry_out(scheduler.complete(name, now=now.now_seconds))
                if progress < -1:
                    return False
        return bool(missing)

    clock.run(until_seconds=until_seconds, on_event=watch)
    return None if missing else clock.now_seconds
