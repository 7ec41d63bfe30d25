"""The schedulers under comparison, what each may be tuned to, and one run of one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.federated_time_clients import SETUP, Federation
from benchmarks.federated_time_runs import Curve, Runs, train_curve
from benchmarks.federated_time_texts import DOMAINS, Share

from finetune.scheduling.documents import SchedulerSettings
from finetune.scheduling.fedbuff import FedBuffSettings
from finetune.scheduling.fedcompass import FedCompassSettings
from finetune.scheduling.selection import SpeedTiers
from finetune.scheduling.synchronous import SynchronousSettings

LEARNING_RATES = (0.01, 0.005, 0.02)
"""Tried at the baseline's best steps, which are tuned at the first; the others train at its best."""

STEPS = (10, 5, 20, 40)
"""Local steps of every arm, and the most steps of FedCompass."""

LEAST_OVER_MOST = 1 / 10
BUFFER_SIZE = 4
STALE_BETA = 0.5

BASELINE = "FedAvg"
COMPASS = "FedCompass"
OTHERS = ("FedCompass as published", "FedBuff", "FedStale")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings of a scheduler.

    Attributes:
        settings: Of the scheduler.
        learning_rate: Of local training.
        stale_beta: FedStale's belief in absent clients; None merges as the scheduler says.
    """

    settings: SchedulerSettings
    learning_rate: float
    stale_beta: float | None = None


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is.

    Attributes:
        until_seconds: Virtual time.
        num_points: Times at which it is judged.
        stop_at_loss: Mean loss that ends it; None goes on to the end.
    """

    until_seconds: float
    num_points: int
    stop_at_loss: float | None = None


def grid(arm: str, learning_rate: float) -> list[Candidate]:
    """Return what an arm may be tuned to."""
    return [
        Candidate(_settings(arm, steps), learning_rate, STALE_BETA if arm == "FedStale" else None)
        for steps in STEPS
    ]


def _settings(arm: str, steps: int) -> SchedulerSettings:
    if arm == BASELINE:
        return SynchronousSettings(local_steps=steps)
    if arm == "FedStale":
        tiers = SpeedTiers(num_tiers=4, num_clients=2)
        return SynchronousSettings(local_steps=steps, selection=tiers)
    if arm == "FedBuff":
        return FedBuffSettings(local_steps=steps, buffer_size=BUFFER_SIZE)
    least = max(round(steps * LEAST_OVER_MOST), 1)
    is_ours = arm == COMPASS
    return FedCompassSettings(
        least_steps=least,
        most_steps=steps,
        first_steps=least if is_ours else steps,
        server_rate=1.0 if is_ours else 0.9,
        step_exponent=0.5 if is_ours else 0.0,
    )


def words(one: Candidate) -> str:
    """Return a candidate's settings that differ between candidates."""
    content = one.settings.model_dump(mode="json")
    names = ("local_steps", "least_steps", "most_steps", "buffer_size", "server_rate")
    shown = [f"{name}={content[name]}" for name in names if name in content]
    return " ".join([*shown, f"learning_rate={one.learning_rate}"])


def shares_of(*, part: int, num_parts: int) -> tuple[Share, ...]:
    """Return one client's share of each domain."""
    return tuple(Share(domain, part, num_parts) for domain in DOMAINS)


def run_candidate(
    runs: Runs, candidate: Candidate, shares: Sequence[Share], *, seed: int, length: Length
) -> Curve:
    """Return a candidate's curve on a federation."""
    question = {
        "setup": SETUP,
        "shares": [f"{one.domain} {one.part}/{one.num_parts}" for one in shares],
        "seed": seed,
        "learning_rate": candidate.learning_rate,
        "settings": candidate.settings.model_dump(mode="json"),
        "stale_beta": candidate.stale_beta,
        "until_seconds": length.until_seconds,
        "num_points": length.num_points,
        "stop_at_loss": length.stop_at_loss,
    }
    return runs.get(
        question,
        lambda: train_curve(
            _federation(tuple(shares), seed, candidate.learning_rate),
            candidate.settings,
            seed=seed,
            until_seconds=length.until_seconds,
            num_points=length.num_points,
            stale_beta=candidate.stale_beta,
            stop_at_loss=length.stop_at_loss,
        ),
    )


@cache
def _federation(shares: tuple[Share, ...], seed: int, learning_rate: float) -> Federation:
    return Federation(shares, seed=seed, learning_rate=learning_rate)
