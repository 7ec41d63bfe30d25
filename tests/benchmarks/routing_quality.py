"""How well prompts are routed among models: 5-fold cross-validation on graded prompts.

    make bench NAME=routing-quality DATA=/path/to/router_train.json

Prices stand beside it in `router_models.json`. For every seed of the folds: the predictor as `motley
route train` fits it, every setting and the price's weight chosen inside the training folds; beside it
the best single model (of the training folds), an even draw, the oracle, and a plain k-nearest-neighbour
on hashed words with the same choice of the weight. The data's `cluster_id` is made from the scores and
is not looked at. Then the time of a decision, one thread, beside whatever else the machine runs.
"""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import numpy as np

from router.prediction import report
from router.prediction.evaluation import (
    Fitter,
    FoldFit,
    Outcome,
    Predict,
    Quality,
    complete,
    cross_validate,
    fit_ours,
    quality_of,
)
from router.prediction.features import NUM_BUCKETS
from router.prediction.graded_files import read_graded_prompts
from router.prediction.labelled import LabelledPrompts, label_scores
from router.prediction.latency import time_decisions
from router.prediction.metrics import Array
from router.prediction.prices import costs_usd, read_prices
from router.prediction.selection import split_folds
from router.prediction.sparse_rows import stack
from router.prediction.training import fit

SEEDS = (0, 1, 2)
PLAIN_NEIGHBOURS = 50
OURS, PLAIN = "predictor", f"plain {PLAIN_NEIGHBOURS}-NN on hashed words"
BOUND_GAP, BOUND_COST = 0.10, 0.6


def run() -> dict[str, object]:
    """Print the tables and return their figures."""
    path = Path(os.environ.get("DATA", ""))
    if not path.is_file():
        sys.exit("routing-quality: DATA names no file; give DATA=/path/to/router_train.json")
    graded = read_graded_prompts(path)
    texts = [one.question for one in graded]
    prompts = complete(label_scores(texts, [one.scores for one in graded]))
    prices = read_prices(path.with_name("router_models.json"))
    costs = costs_usd(prompts.models, prices, prompts.prompt_tokens.astype(float))
    seeds = SEEDS[:1] if os.environ.get("QUICK") else SEEDS
    figures: dict[str, object] = {"num_prompts": len(prompts), "seeds": list(seeds)}
    qualities: list[Quality] = []
    for seed in seeds:
        methods = {
            name: _judged(fitter, prompts, costs, seed)
            for name, fitter in ((OURS, fit_ours), (PLAIN, fit_plain))
        }
        print(f"\nfolds drawn by seed {seed}, {len(prompts):,} prompts")
        print(report.quality_table(methods))
        for line in report.notes(*methods[OURS]):
            print(line)
        figures[f"seed_{seed}"] = {name: asdict(each) for name, (_, each) in methods.items()}
        qualities.append(methods[OURS][1])
    figures["bars"] = _bars(qualities)
    times = time_decisions(fit(prompts), texts, clock=time.perf_counter)
    for one in times:
        print(
            f"decision for {one.num_characters:,} characters: p50 {1e3 * one.median_seconds:.2f} ms, "
            f"p99 {1e3 * one.p99_seconds:.2f} ms (one thread, wall time)"
        )
    figures["decisions"] = [asdict(one) for one in times]
    return figures


def fit_plain(prompts: LabelledPrompts, costs: Array) -> tuple[FoldFit, Predict]:
    """Average the losses of the nearest training prompts by the cosine of hashed words."""
    losses = prompts.losses.astype(np.float64)
    held_out = np.zeros_like(losses)
    for split in split_folds(len(prompts), num_folds=5, seed=0):
        others = prompts.take(split.fitted)
        held_out[split.held_out] = _near(others, losses[split.fitted], prompts.take(split.held_out))

    def predict(others: LabelledPrompts) -> tuple[Array, Array]:
        predicted = _near(prompts, losses, others)
        return predicted, np.zeros_like(predicted)

    return FoldFit(held_out, np.zeros_like(held_out), 0.0), predict


def _near(known: LabelledPrompts, losses: Array, asked: LabelledPrompts) -> Array:
    rows = stack(known.features, num_columns=NUM_BUCKETS)
    lengths = np.array([np.sqrt((one.values**2).sum()) or 1 for one in known.features])
    result = np.zeros((len(asked), losses.shape[1]))
    for begin in range(0, len(asked), 128):
        part = asked.features[begin : begin + 128]
        columns = np.zeros((NUM_BUCKETS, len(part)), dtype=np.float32)
        for place, one in enumerate(part):
            columns[one.indices, place] = one.values
        # The length of the one asked about is the same for all its neighbours.
        similarities = rows.times(columns).T / lengths
        taken = np.argpartition(-similarities, PLAIN_NEIGHBOURS, axis=1)[:, :PLAIN_NEIGHBOURS]
        result[begin : begin + 128] = losses[taken].mean(axis=1)
    return result


def _judged(
    fitter: Fitter, prompts: LabelledPrompts, costs: Array, seed: int
) -> tuple[Outcome, Quality]:
    outcome = cross_validate(prompts, costs, fitter=fitter, seed=seed)
    return outcome, quality_of(outcome, seed=seed)


def _bars(qualities: list[Quality]) -> dict[str, object]:
    """Say which bars were met, by the mean over seeds and the worst interval."""
    gap = mean(one.gap_closed for one in qualities)
    cost = mean(one.parity_cost_fraction for one in qualities)
    lowest = min(one.gain.low for one in qualities)
    above = mean(one.parity_accuracy - (one.accuracy - one.gain.value) for one in qualities)
    bars = {
        f"gap closed at least {BOUND_GAP:.0%}": (gap, gap >= BOUND_GAP),
        "interval of the gain above 0": (lowest, lowest > 0),
        "accuracy at parity less the best single's": (above, above >= 0),
        f"cost at parity at most {BOUND_COST}": (cost, cost <= BOUND_COST),
    }
    print()
    for name, (value, is_met) in bars.items():
        print(f"{name:<44}{value:>8.4f}  {'met' if is_met else 'MISSED'}")
    return {name: {"value": value, "is_met": is_met} for name, (value, is_met) in bars.items()}
