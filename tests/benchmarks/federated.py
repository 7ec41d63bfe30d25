"""Bytes to the same held-out loss: our default exchange against dense LoRA with FedAvg, and others.

Eight clients with texts of unlike kinds adapt the tiny draft model. The dense run's loss at 95 % of
its improvement over the base model is the target; an arm's figure is the dense run's bytes to it
over its own. Bytes are the product's: serialised messages, both directions, headers and positions
included. After each round the benchmark itself judges the server's adapter on each client's held-out
text (FLASC's as the clients get it); that is sent nowhere, so it counts for no arm. Learning rates are chosen over one grid on other
clients' texts: for the arms named in `TUNED` as reaches the tuned dense run's target in the fewest bytes.

A killed benchmark goes on with the run it was in, from that run's first round; `QUICK=1` takes one seed, fewer arms and rounds;
after `MINUTES=n` no further run begins, and the tables are of those that are there.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from benchmarks.federated_arms import ALL, BY_NAME, DENSE, JOB, QUICK, TUNED, Arm, job_document
from benchmarks.federated_curves import Point, Run, Store
from benchmarks.federated_report import figures_of, show
from benchmarks.federated_run import run_arm
from benchmarks.federated_texts import JUDGED, TUNING, write_texts

from finetune.config import JobConfig

FOLDER = Path("runs") / "benchmarks" / "federated"
TARGET = 0.95
RATES = (0.0025, 0.005, 0.01, 0.02)
MOST_ROUNDS_FACTOR = 3
"""Rounds an arm may take, in dense runs."""


class Bench:
    """Settings, texts and finished runs of one benchmark."""

    def __init__(self, *, is_quick: bool) -> None:
        """Write the texts and find what is finished already."""
        self.rounds = 12 if is_quick else 30
        self.tuning_rounds = 20
        self.seeds = (1,) if is_quick else (1, 2, 3)
        self.rates = RATES[1:2] if is_quick else RATES
        self.arms = tuple(BY_NAME[name] for name in QUICK) if is_quick else ALL
        self.texts = {
            kind: write_texts(sources, FOLDER / "texts" / kind)
            for kind, sources in (("judged", JUDGED), ("tuning", TUNING))
        }
        self.settings = {
            "rounds": self.rounds,
            "tuning_rounds": self.tuning_rounds,
            "most_rounds_factor": MOST_ROUNDS_FACTOR,
            "job": dict(JOB),
            "texts_sha256": {kind: _digest(paths) for kind, paths in self.texts.items()},
        }
        self.store = Store(FOLDER, self.settings)
        self.most_seconds = 60 * float(os.environ.get("MINUTES", "inf"))
        self.began, self.num_made = time.monotonic(), 0
        self.left = len(self.seeds) * len(self.arms)
        if len(self.rates) > 1:
            self.left += len(TUNED) * len(self.rates)

    def run(self, arm: Arm, seed: int, rate: float, baseline: Run | None, *, kind: str) -> Run:
        """Return a run, made now or before.

        Args:
            arm: What to run.
            seed: Of adapter and batches.
            rate: Of learning.
            baseline: The dense run whose target is to be reached; None for a dense run.
            kind: Whose texts.
        """
        name = self.name(arm, seed, rate, kind=kind)
        self.left -= 1
        if self.store.has(name):
            return self.store.run(name, lambda: self._make(arm, seed, rate, baseline, kind))
        run = self.store.run(name, lambda: self._make(arm, seed, rate, baseline, kind))
        self.num_made += 1
        each = (time.monotonic() - self.began) / self.num_made
        print(
            f"  {name:<50} {len(run.points) - 1:>4} rounds  loss {run.points[-1].loss:.4f}  "
            f"{run.points[-1].num_bytes / 1e6:>8.2f} MB  {run.seconds:>5.0f} s   "
            f"{self.left} runs left, about {self.left * each / 60:.0f} min",
            flush=True,
        )
        return run

    def name(self, arm: Arm, seed: int, rate: float, *, kind: str) -> str:
        """Return the name that a run is kept under; another form of the arm has another."""
        key = hashlib.sha256(repr((arm.changes, arm.mask_density)).encode()).hexdigest()[:6]
        return f"{kind}-{arm.name}-{key}-seed{seed}-rate{rate:g}"

    def is_left_out(self, arm: Arm, seed: int, rate: float) -> bool:
        """Return whether a run is not there and time is up."""
        is_late = time.monotonic() - self.began > self.most_seconds
        return is_late and not self.store.has(self.name(arm, seed, rate, kind="judged"))

    def order(self, baselines: Sequence[Run]) -> list[tuple[Arm, Run]]:
        """Return what comes after the baselines: ours with every seed, then seed by seed the rest."""
        ours, *rest = self.arms[1:]
        return [(ours, baseline) for baseline in baselines] + [
            (arm, baseline) for baseline in baselines for arm in rest
        ]

    def _make(self, arm: Arm, seed: int, rate: float, baseline: Run | None, kind: str) -> Run:
        texts = {name: str(path) for name, path in self.texts[kind].items()}
        is_bounded = baseline is None or arm.runs_to_the_end
        rounds = self.tuning_rounds if kind == "tuning" else self.rounds
        rounds = rounds if is_bounded else int(MOST_ROUNDS_FACTOR * rounds)
        document = job_document(arm, texts, seed=seed, learning_rate=rate, rounds=rounds)

        def stop(point: Point) -> bool:
            if baseline is None or arm.runs_to_the_end:
                return False
            theirs = baseline.reached(baseline.target(TARGET)) or baseline.points[-1]
            return point.loss <= baseline.target(TARGET) or point.num_bytes > theirs.num_bytes

        return run_arm(arm, JobConfig.model_validate(document), stop=stop)

    def tune(self) -> dict[str, float]:
        """Return each tuned arm's learning rate, chosen on the tuning texts."""
        if len(self.rates) == 1:
            return dict.fromkeys(TUNED, self.rates[0])
        seed = 0
        dense = [self.run(DENSE, seed, rate, None, kind="tuning") for rate in self.rates]
        baseline = min(dense, key=lambda run: run.points[-1].loss)
        chosen = {DENSE.name: _best(dense, baseline)}
        for name in TUNED[1:]:
            runs = [
                self.run(BY_NAME[name], seed, rate, baseline, kind="tuning") for rate in self.rates
            ]
            chosen[name] = _best(runs, baseline)
        return chosen


def run() -> dict[str, object]:
    """Tune, run every arm with every seed, print the tables, draw the plots."""
    torch.set_num_threads(1)  # the model is too small to share
    bench = Bench(is_quick=os.environ.get("QUICK") == "1")
    rates = bench.tune()
    print("learning rates:", ", ".join(f"{name} {rate:g}" for name, rate in rates.items()))
    baselines = [
        bench.run(DENSE, seed, rates[DENSE.name], None, kind="judged") for seed in bench.seeds
    ]
    runs = {DENSE.name: baselines}
    for arm, baseline in bench.order(baselines):
        rate = rates[arm.tuned_as]
        if bench.is_left_out(arm, baseline.seed, rate):
            print(f"  out of time: {arm.name}, seed {baseline.seed} is left out; run it again")
            continue
        made = bench.run(arm, baseline.seed, rate, baseline, kind="judged")
        runs.setdefault(arm.name, []).append(made)
    figures = figures_of(runs, target=TARGET)
    show(figures, runs, folder=bench.store.folder, target=TARGET)
    return {
        "settings": bench.settings,
        "target_fraction": TARGET,
        "seeds": bench.seeds,
        "learning_rate_grid": bench.rates,
        "learning_rates": rates,
        **figures,
    }


def _best(runs: list[Run], baseline: Run) -> float:
    """Return the rate that reaches the target in the fewest bytes; of misses, the lowest loss."""
    target = baseline.target(TARGET)

    def order(run: Run) -> tuple[bool, float]:
        reached = run.reached(target)
        return reached is None, run.points[-1].loss if reached is None else reached.num_bytes

    return min(runs, key=order).learning_rate


def _digest(paths: Mapping[str, Path]) -> str:
    """Return the SHA-256 of all clients' texts."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths.values())).hexdigest()
