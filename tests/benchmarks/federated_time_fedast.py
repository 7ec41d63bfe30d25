"""Three adapters over one pool of clients: trained together by FedAST, or one after the other.

Each adapter's target is the loss at which synchronous FedAvg, alone, has 95 % of the fall it reaches
in the whole run. Its local steps are tuned on another federation, FedAST's settings are not.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import median

import numpy as np
from benchmarks.federated_time_arms import Candidate, Length, run_candidate, words
from benchmarks.federated_time_clients import SETUP, Federation, machines
from benchmarks.federated_time_runs import Curve, Runs, Watch
from benchmarks.federated_time_texts import Share

from finetune.scheduling.decisions import Assignment
from finetune.scheduling.documents import SchedulerSettings, make_scheduler
from finetune.scheduling.fedast import FedAst, FedAstSettings
from finetune.scheduling.synchronous import SynchronousSettings
from finetune.simulated_training import RealTraining
from finetune.updates import Tensors
from finetune.virtual_clock import LocalResult, VirtualClock

PYTHON = ("mathematics", "graphs", "plots", "networks")
ADAPTERS: dict[str, tuple[Share, ...]] = {
    "python": tuple(Share(domain, part, 4) for part in (0, 1) for domain in PYTHON),
    "headers": tuple(Share("headers", part, 8) for part in range(8)),
    "readmes": tuple(Share("readmes", part, 8) for part in range(8)),
}
"""What the eight clients hold for each adapter."""

TARGET = 0.95
MOST_TIME = 0.7
TUNING_SEED = 11
ALONE_STEPS = (5, 10)
TOGETHER_STEPS, BUFFER_SIZE = 10, 4
"""Not tuned. With a buffer of 2 the adapters swing: two clients' changes make a whole version."""

ALONE = Length(until_seconds=40.0, num_points=20)
TOGETHER_SECONDS, TOGETHER_POINTS = 120.0, 24


def compare_together(
    runs: Runs, seeds: Sequence[int], *, learning_rate: float, is_quick: bool
) -> dict[str, object]:
    """Tune, judge and print; return the figures."""
    alone = Candidate(SynchronousSettings(local_steps=ALONE_STEPS[0]), learning_rate)
    if not is_quick:
        alone = _tuned_alone(runs, learning_rate)
    settings = FedAstSettings(
        adapters=tuple(ADAPTERS), local_steps=TOGETHER_STEPS, buffer_size=BUFFER_SIZE
    )
    together = Candidate(settings, learning_rate)
    print(f"\n{len(ADAPTERS)} adapters: FedAST {words(together)}; alone {words(alone)}")
    rows = []
    for seed in seeds:
        curves = _alone(runs, alone, seed)
        targets = _targets(curves)
        at_once = _run_together(runs, together, targets, seed)
        row = {
            "seed": seed,
            "together_seconds": _seconds_together(at_once),
            "alone_seconds": _seconds_alone(curves, targets),
            "completed_seconds": at_once.facts["seconds"],
        }
        row["ratio"] = row["together_seconds"] / row["alone_seconds"]
        rows.append(row)
        print(
            f"  seed {seed}: together {row['together_seconds']:.1f} s, one after the other "
            f"{row['alone_seconds']:.1f} s: {row['ratio']:.2f}"
        )
    return {
        "alone": alone.settings.model_dump(mode="json"),
        "together": together.settings.model_dump(mode="json"),
        "rows": rows,
        "of_alone": median(row["ratio"] for row in rows),
    }


def _tuned_alone(runs: Runs, learning_rate: float) -> Candidate:
    """Return the steps that reach the targets first on the tuning federation, in all."""
    every = [Candidate(SynchronousSettings(local_steps=n), learning_rate) for n in ALONE_STEPS]
    curves = {one: _alone(runs, one, TUNING_SEED) for one in every}
    targets = _targets(curves[every[0]])
    return min(every, key=lambda one: _seconds_alone(curves[one], targets))


def _alone(runs: Runs, candidate: Candidate, seed: int) -> dict[str, Curve]:
    return {
        name: run_candidate(runs, candidate, shares, seed=seed, length=ALONE)
        for name, shares in ADAPTERS.items()
    }


def _targets(curves: Mapping[str, Curve]) -> dict[str, float]:
    return {name: curve.means[0] - TARGET * curve.fall for name, curve in curves.items()}


def _seconds_alone(curves: Mapping[str, Curve], targets: Mapping[str, float]) -> float:
    """Return the sum of the times to the targets; one that is missed is endless."""
    reached = [curve.seconds_to(targets[name]) for name, curve in curves.items()]
    return math.fsum(math.inf if seconds is None else seconds for seconds in reached)


def _seconds_together(curve: Curve) -> float:
    seconds = curve.facts["seconds"].values()
    return math.inf if None in seconds else max(seconds)


def _run_together(
    runs: Runs, candidate: Candidate, targets: Mapping[str, float], seed: int
) -> Curve:
    question = {
        "setup": SETUP,
        "seed": seed,
        "learning_rate": candidate.learning_rate,
        "settings": candidate.settings.model_dump(mode="json"),
        "targets": dict(targets),
        "until_seconds": TOGETHER_SECONDS,
        "num_points": TOGETHER_POINTS,
    }
    federations = _federations(seed, candidate.learning_rate)
    return runs.get(
        question, lambda: train_together(candidate.settings, federations, targets, seed)
    )


@cache
def _federations(seed: int, learning_rate: float) -> dict[str, Federation]:
    return {
        name: Federation(shares, seed=seed, learning_rate=learning_rate)
        for name, shares in ADAPTERS.items()
    }


class SeveralAdapters:
    """Sends each assignment to its adapter's training."""

    def __init__(self, training: Mapping[str, RealTraining]) -> None:
        """Keep the training by adapter."""
        self._training = training

    def train(self, tensors: Tensors, assignments: Sequence[Assignment]) -> list[LocalResult]:
        """Return the results of assignments of one adapter."""
        return self._training[assignments[0].adapter].train(tensors, assignments)


def train_together(
    settings: SchedulerSettings,
    federations: Mapping[str, Federation],
    targets: Mapping[str, float],
    seed: int,
) -> Curve:
    """Train all adapters until each has reached its target or the time is over.

    One is complete when it is first judged to have reached its mean loss; the curve's losses are
    the adapters' means, its facts when each was complete, None where it was not.
    """
    began = time.process_time()
    scheduler = make_scheduler(settings)
    assert isinstance(scheduler, FedAst)
    clock = VirtualClock(
        scheduler,
        SeveralAdapters({name: RealTraining(one.trainers) for name, one in federations.items()}),
        machines(next(iter(federations.values())).num_examples, seed=seed),
        {name: one.start for name, one in federations.items()},
    )
    times = np.linspace(0, TOGETHER_SECONDS, TOGETHER_POINTS + 1)[1:].tolist()
    watches = {name: Watch(one.losses, one.start, times) for name, one in federations.items()}
    reached: dict[str, float | None] = dict.fromkeys(federations)

    def on_event(now: VirtualClock) -> bool:
        for name, watch in watches.items():
            if reached[name] is not None:
                continue
            watch.see(now.now_seconds, now.adapters[name])
            if float(np.mean(watch.losses[-1])) <= targets[name]:
                reached[name] = watch.seconds[-1]
                now.carry_out(scheduler.complete(name, now=now.now_seconds))
        return any(seconds is None for seconds in reached.values())

    clock.run(until_seconds=TOGETHER_SECONDS, on_event=on_event)
    means = {name: np.mean(watch.losses, axis=1).tolist() for name, watch in watches.items()}
    facts = {
        "seconds": reached,
        "means": means,
        "num_events": clock.num_events,
        "processor_seconds": time.process_time() - began,
    }
    return Curve([0.0, *times], [], facts)
