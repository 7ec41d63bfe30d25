"""Does the router find the model that is best for a prompt? Tryage's question on a library of our own.

Sixteen models: an adapter for each of eight kinds of text on each of the two tiny base models. The
predictor sees a prompt's hashed words and is fitted on the true losses of other files' prompts; what
is reported comes from files that neither it nor any adapter has seen. The paper's figure, the optimal
model for 50.9 % of prompts, is of other data and another library (eleven masked language models on
parts of The Pile); the table says so.

Adapters and losses are kept under `runs/benchmarks/tryage`, so a benchmark that was killed goes on.
`QUICK=1` takes the small base model alone, fewer steps and prompts.

Source of method and figure: Hari & Thomson, Tryage, arXiv 2308.11601.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.tryage_library import BASES, SETUP, Library, Losses, Member, members
from benchmarks.tryage_report import Front, accuracy_rows, show, sweep
from benchmarks.tryage_texts import Prompt, Texts, read_texts
from rich.console import Console
from rich.progress import track

from router.prediction.labelled import LabelledPrompts, label_texts
from router.prediction.training import fit

FOLDER = Path("runs") / "benchmarks" / "tryage"
PAPER_FRACTION = 0.509
USD_PER_MILLION_TOKENS = {"large": 1.0, "small": 0.2}
DEARER_FRACTION = 0.05
"""Prices are made up: a base's, and so much more for each domain after the first."""


def run() -> dict[str, object]:
    """Train the library, fit the predictor, judge its picks; print the tables, draw the fronts."""
    torch.set_num_threads(1)  # the models are too small to share
    is_quick = os.environ.get("QUICK") == "1"
    num_steps = 80 if is_quick else 200
    bases = ["small"] if is_quick else list(BASES)
    texts = read_texts(fitting=60 if is_quick else 150, judged=64 if is_quick else 80)
    settings = {**SETUP, "num_steps": num_steps, "texts_sha256": texts.digest()}
    library = Library(_folder(settings), texts, num_steps=num_steps)
    models = members(bases)
    fitting, judged = _losses(library, texts, models)
    predictor = fit(_labelled(models, texts.fitting, fitting))
    names = [member.name for member in models]
    order = [predictor.models.index(name) for name in names]
    seen = label_texts([prompt.text for prompt in texts.judged], [{} for _ in texts.judged])
    predicted = predictor.predict_many(seen.features)[0][:, order]
    rows = accuracy_rows(names, fitting=fitting, judged=judged, predicted=predicted)
    fronts = _fronts(library, models, predicted, judged)
    png = _folder(settings) / "fronts.png"
    show(Console(), rows, fronts, paper_fraction=PAPER_FRACTION, png=png)
    print(f"{texts.num_near_duplicates} near-duplicates left out; fronts drawn in {png}")
    return {
        "settings": settings,
        "num_prompts": {"fitting": len(texts.fitting), "judged": len(texts.judged)},
        "num_near_duplicates": texts.num_near_duplicates,
        "bars": {"optimal_fraction": PAPER_FRACTION},
        "mean_loss_by_model": dict(zip(names, judged.mean(0).tolist(), strict=True)),
        "own_domain_is_best_fraction": _own_domain_fraction(models, texts.judged, judged),
        "rows": rows,
        "fronts": {front.goal: front.as_json() for front in fronts},
    }


def _folder(settings: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = FOLDER / digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _losses(library: Library, texts: Texts, models: Sequence[Member]) -> tuple[Losses, Losses]:
    """Return true losses on both parts. Shapes: (num_prompts, num_models)."""
    fitting, judged = [], []
    for member in track(models, description="adapters and their losses"):
        fitting.append(library.losses(texts.fitting, member, part="fitting"))
        judged.append(library.losses(texts.judged, member, part="judged"))
    return np.stack(fitting, axis=1), np.stack(judged, axis=1)


def _labelled(
    models: Sequence[Member], prompts: Sequence[Prompt], losses: Losses
) -> LabelledPrompts:
    names = [member.name for member in models]
    labels = [dict(zip(names, row, strict=True)) for row in losses.tolist()]
    return label_texts([prompt.text for prompt in prompts], labels)


def _fronts(
    library: Library, models: Sequence[Member], predicted: Losses, judged: Losses
) -> list[Front]:
    sizes = [float(np.log(library.num_parameters(member.base))) for member in models]
    place = {name: number for number, name in enumerate(dict.fromkeys(m.domain for m in models))}
    prices = [
        USD_PER_MILLION_TOKENS[one.base] * (1 + DEARER_FRACTION * place[one.domain])
        for one in models
    ]
    return [
        sweep("smallest", "mean logarithm of parameters", sizes, predicted, judged),
        sweep("cheapest", "mean USD per million prompt tokens", prices, predicted, judged),
    ]


def _own_domain_fraction(
    models: Sequence[Member], prompts: Sequence[Prompt], judged: Losses
) -> float:
    """Return how often the best model was trained on the prompt's own domain."""
    best = judged.argmin(axis=1)
    own = [models[one].domain == p.domain for one, p in zip(best, prompts, strict=True)]
    return float(np.mean(own))
