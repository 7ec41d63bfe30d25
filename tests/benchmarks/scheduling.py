"""Virtual time to a target loss by scheduler, on clients 1 to 8 times slower by domain.

Settings are tuned on three drawn federations over one grid, by the slowest of them, and judged on
three others: medians. The target is 95 % of the possible fall of the loss over all clients, by
examples. Final figures are taken after `END_SECONDS` and compared with FedAvg's on the same
federation; the learning rate is one for all, so a larger server rate is also a larger step.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from statistics import median

from benchmarks.scheduling_arms import (
    ARMS,
    BASELINE,
    BUFFER_FRACTIONS,
    EXPONENTS,
    LEARNING_RATES,
    STEPS,
    Candidate,
    Outcome,
    buffer_size,
    grid,
    run_one,
    run_together,
)
from benchmarks.scheduling_quadratics import Quadratics

from finetune.scheduling.fedast import FedAstSettings
from finetune.scheduling.fedbuff import FedBuffSettings
from finetune.scheduling.staleness import Polynomial

TARGET = 0.95
TUNING_SEEDS = (11, 12, 13)
SEEDS = (1, 2, 3)
NUM_CLIENTS = 32
MANY_CLIENTS = 5_000
DOMAIN_SPREADS = (0.5, 1.0)
TUNING_SECONDS = 200.0
END_SECONDS = 600.0
FEDAST_CLIENTS = (32, 128)
SIZES = {"small": 0.7, "middle": 1.0, "large": 1.5}
"""FedAST's adapters, by how far their centres are from the start."""


def run() -> dict[str, object]:
    """Print the tables and return their figures."""
    tuned = {}
    figures: dict[str, object] = {"target_fraction": TARGET}
    for spread in DOMAIN_SPREADS:
        tuned[spread] = {arm: tune(arm, spread) for arm in ARMS}
        figures[f"domain_spread_{spread}"] = compare(tuned[spread], spread)
    figures["many_clients"] = many_clients(tuned[DOMAIN_SPREADS[0]])
    for num_clients in FEDAST_CLIENTS:
        figures[f"fedast_{num_clients}_clients"] = fedast(num_clients)
    return figures


def tune(arm: str, spread: float) -> Candidate:
    """Return the candidate that reaches the target first on the tuning federation."""
    return _best(
        grid(arm, NUM_CLIENTS),
        lambda one, seed: _run(one, spread, seed, until=TUNING_SECONDS).target_seconds,
    )


def compare(tuned: dict[str, Candidate], spread: float) -> dict[str, object]:
    """Judge each arm's settings on the other federations."""
    print(f"\n{NUM_CLIENTS} clients, domains {spread} apart (the way to train is 1)")
    print(f"{'arm':<28}{'seconds':>9}{'/ FedAvg':>10}{'final':>8}{'slowest':>9}  settings")
    rows: dict[str, object] = {}
    baseline: list[Outcome] = []
    for arm, one in tuned.items():
        outcomes = [_run(one, spread, seed, until=END_SECONDS) for seed in SEEDS]
        baseline = baseline or outcomes
        pairs = list(zip(outcomes, baseline, strict=True))
        row = {
            "seconds": median(end.target_seconds or END_SECONDS for end in outcomes),
            "of_baseline": median(
                (end.target_seconds or END_SECONDS) / (other.target_seconds or END_SECONDS)
                for end, other in pairs
            ),
            "final_fraction": median(end.loss_fall / other.loss_fall for end, other in pairs),
            "slowest_fraction": median(
                end.slowest_fall / other.slowest_fall for end, other in pairs
            ),
            "reached": sum(end.target_seconds is not None for end in outcomes),
            "learning_rate": one.learning_rate,
            "settings": one.settings.model_dump(mode="json"),
        }
        rows[arm] = row
        missed = len(SEEDS) - int(row["reached"])
        print(
            f"{arm:<28}{row['seconds']:>9.1f}{row['of_baseline']:>10.2f}"
            f"{row['final_fraction']:>8.3f}{row['slowest_fraction']:>9.3f}  {_words(one)}"
            + (f"  (missed by {missed} of {len(SEEDS)})" if missed else "")
        )
    return rows


def many_clients(tuned: dict[str, Candidate]) -> dict[str, object]:
    """Run each arm's settings with thousands of clients, and time that."""
    print(f"\n{MANY_CLIENTS} clients, settings as for {NUM_CLIENTS}")
    print(f"{'arm':<28}{'seconds':>9}{'events':>10}{'wall seconds':>14}")
    rows: dict[str, object] = {}
    for arm, one in tuned.items():
        if isinstance(one.settings, FedBuffSettings):
            size = one.settings.buffer_size * MANY_CLIENTS // NUM_CLIENTS
            one = replace(one, settings=one.settings.model_copy(update={"buffer_size": size}))
        began = time.perf_counter()
        outcome = _run(
            one, DOMAIN_SPREADS[0], SEEDS[0], until=END_SECONDS, num_clients=MANY_CLIENTS
        )
        wall_seconds = time.perf_counter() - began
        reached = outcome.target_seconds
        rows[arm] = {
            "seconds": reached,
            "num_events": outcome.num_events,
            "wall_seconds": wall_seconds,
        }
        shown = "-" if reached is None else f"{reached:.1f}"
        print(f"{arm:<28}{shown:>9}{outcome.num_events:>10}{wall_seconds:>14.1f}")
    return rows


def fedast(num_clients: int) -> dict[str, object]:
    """Compare three adapters at once with one after the other, tuned for this pool."""
    print(f"\n{len(SIZES)} adapters, {num_clients} clients")
    at_once = _seconds_of_tuned(_fedast_grid(num_clients), num_clients, _at_once)
    print(f"{'at once, FedAST':<36}{median(at_once):>8.1f}")
    figures: dict[str, object] = {"at_once_seconds": _finite(at_once)}
    for arm in ("FedBuff", BASELINE):
        alone = _seconds_of_tuned(grid(arm, num_clients), num_clients, _one_after_the_other)
        # Where both fail the comparison fails too.
        ratios = [a / b if a < math.inf else a for a, b in zip(at_once, alone, strict=True)]
        ratio = median(ratios)
        print(
            f"{'one after the other, ' + arm:<36}{median(alone):>8.1f}  at once / this {ratio:.2f}"
            f"  ({' '.join(f'{one:.2f}' for one in sorted(ratios))})"
        )
        figures[arm] = {"seconds": _finite(alone), "ratios": _finite(ratios)}
    return figures


def _seconds_of_tuned(
    candidates: Iterable[Candidate],
    num_clients: int,
    seconds_of: Callable[[Candidate, int, int, float], float | None],
) -> list[float]:
    best = _best(candidates, lambda one, seed: seconds_of(one, num_clients, seed, TUNING_SECONDS))
    print(f"  {_words(best)}")
    return [seconds_of(best, num_clients, seed, END_SECONDS) or math.inf for seed in SEEDS]


def _one_after_the_other(one: Candidate, num_clients: int, seed: int, until: float) -> float | None:
    total = 0.0
    for task in _tasks(one, num_clients, seed).values():
        reached = run_one(
            one.settings,
            task,
            num_clients=num_clients,
            seed=seed,
            target=TARGET,
            until_seconds=until,
            stop_at_target=True,
        ).target_seconds
        if reached is None:
            return None
        total += reached
    return total


def _at_once(one: Candidate, num_clients: int, seed: int, until: float) -> float | None:
    assert isinstance(one.settings, FedAstSettings)
    return run_together(
        one.settings,
        _tasks(one, num_clients, seed),
        num_clients=num_clients,
        seed=seed,
        target=TARGET,
        until_seconds=until,
    )


def _fedast_grid(num_clients: int) -> Iterable[Candidate]:
    for learning_rate, steps, exponent, fraction in product(
        LEARNING_RATES, STEPS, EXPONENTS, BUFFER_FRACTIONS
    ):
        settings = FedAstSettings(
            adapters=tuple(SIZES),
            local_steps=steps,
            buffer_size=buffer_size(fraction / len(SIZES), num_clients),
            staleness=Polynomial(exponent=exponent),
        )
        yield Candidate(settings, learning_rate)


def _tasks(one: Candidate, num_clients: int, seed: int) -> dict[str, Quadratics]:
    return {
        name: Quadratics(
            num_clients, seed=seed + 1000 * number, size=size, learning_rate=one.learning_rate
        )
        for number, (name, size) in enumerate(SIZES.items(), start=1)
    }


def _run(
    one: Candidate, spread: float, seed: int, *, until: float, num_clients: int = NUM_CLIENTS
) -> Outcome:
    task = Quadratics(num_clients, seed=seed, learning_rate=one.learning_rate, domain_spread=spread)
    return run_one(
        one.settings,
        task,
        num_clients=num_clients,
        seed=seed,
        target=TARGET,
        until_seconds=until,
        stop_at_target=seed in TUNING_SEEDS or num_clients == MANY_CLIENTS,
    )


def _best(
    candidates: Iterable[Candidate], seconds_of: Callable[[Candidate, int], float | None]
) -> Candidate:
    """Return the candidate whose slowest federation is the least slow; one it fails is endless."""

    def slowest_seconds(one: Candidate) -> float:
        return max(seconds_of(one, seed) or math.inf for seed in TUNING_SEEDS)

    return min(candidates, key=slowest_seconds)


def _finite(values: Iterable[float]) -> list[float | None]:
    """Return the values as JSON knows them: None where the target was missed."""
    return [value if value < math.inf else None for value in values]


def _words(one: Candidate) -> str:
    content = one.settings.model_dump(mode="json")
    names = ("local_steps", "least_steps", "most_steps", "buffer_size", "server_rate")
    words = [f"{name}={content[name]}" for name in names if name in content]
    if "staleness" in content:
        words.append(f"exponent={content['staleness']['exponent']}")
    return f"learning_rate={one.learning_rate} " + " ".join(words)
