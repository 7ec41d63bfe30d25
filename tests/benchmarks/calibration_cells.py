"""The measurements of Splitwise (arXiv 2311.18677), one cell for each degree, prompt and batch.

Repeats, runs with other answer lengths included, collapse to their medians. A cell is implausible,
and dropped whole, where a median lies under what the devices' peaks allow: no engine computes
above peak FLOP/s, nor reads weights above peak bandwidth.
"""

import csv
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.coefficients import Coefficients
from planner.hardware.find_model import find_model
from planner.hardware.model_spec import ModelSpec
from planner.speed.replica_design import ReplicaDesign
from planner.speed.step_model import RooflineStepTimes
from planner.speed.step_times import StepBatch

_CATALOGUE = built_in_catalogue()
GPU = _CATALOGUE.gpu("A100-80GB")
LLAMA = find_model("meta-llama/Llama-2-70b-hf", _CATALOGUE, hub_cache=Path("none"))
BLOOM = ModelSpec(
    name="bigscience/bloom",
    num_layers=70,
    hidden_size=14336,
    num_attention_heads=112,
    num_key_value_heads=112,
    attention_values_per_pair=2 * 14336,
    kv_values_per_token=70 * 2 * 14336,
    layer_parameters=176_247_271_424 - 250_880 * 14336,
    vocabulary_parameters=250_880 * 14336,
    is_embedding_tied=True,
    max_context_tokens=2048,
)
"""Its model card's sizes; no family that the planner reads, so written out here."""

MODELS = {"llama2-70b": LLAMA, "bloom-176b": BLOOM}


@dataclass(frozen=True, slots=True)
class Cell:
    """Medians of one (degree, prompt, batch)."""

    model: str
    tensor_parallel: int
    prompt_tokens: int
    batch: int
    num_rows: int
    prompt_seconds: float
    token_seconds: float
    context_tokens: float
    """Median over the rows of the mean context while decoding: prompt and half the answer."""

    @property
    def key(self) -> tuple[int, int]:
        """Prompt and batch."""
        return self.prompt_tokens, self.batch

    @property
    def prompt_batch(self) -> StepBatch:
        """The step that computes all prompts."""
        tokens = self.batch * self.prompt_tokens
        return StepBatch(tokens, tokens * (self.prompt_tokens + 1) / 2, 0, 0)

    @property
    def token_batch(self) -> StepBatch:
        """The mean step that decodes."""
        return StepBatch(0, 0.0, self.batch, self.batch * self.context_tokens)


def design_of(cell: Cell) -> ReplicaDesign:
    """Return the replica that the cell was measured on."""
    return ReplicaDesign(
        gpu=GPU,
        model=MODELS[cell.model],
        tensor_parallel=cell.tensor_parallel,
        weight_dtype="float16",
        kv_dtype="float16",
    )


def predict(cell: Cell, coefficients: Coefficients) -> tuple[float, float]:
    """Return the seconds that the planner expects of the cell's prompts and of its decode step."""
    times = RooflineStepTimes(design_of(cell), coefficients)
    return times.step_seconds(cell.prompt_batch), times.step_seconds(cell.token_batch)


def read_cells(path: Path, *, model: str, tensor_parallel: set[int]) -> list[Cell]:
    """Return the cells of one model at these degrees, in order."""
    rows: dict[tuple[int, int, int], list[tuple[float, float, float]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            degree = int(row["tensor_parallel"])
            if row["model"] != model or degree not in tensor_parallel:
                continue
            prompt = int(row["prompt_size"])
            times = float(row["prompt_time"]) / 1e3, float(row["token_time"]) / 1e3
            context = prompt + int(row["token_size"]) / 2
            rows[degree, prompt, int(row["batch_size"])].append((*times, context))
    return [
        Cell(model, *key, len(group), *map(statistics.median, zip(*group, strict=True)))
        for key, group in sorted(rows.items())
    ]


def plausible(cells: list[Cell], peaks: Coefficients) -> tuple[list[Cell], list[str]]:
    """Return the cells that the peaks allow, and a line for each that they do not."""
    kept, dropped = [], []
    for cell in cells:
        prompt_floor, token_floor = predict(cell, peaks)
        if cell.prompt_seconds >= prompt_floor and cell.token_seconds >= token_floor:
            kept.append(cell)
            continue
        dropped.append(
            f"TP {cell.tensor_parallel}, prompt {cell.prompt_tokens}, batch {cell.batch}: prompts "
            f"{cell.prompt_seconds:.3f} s where peaks allow {prompt_floor:.3f} s, tokens "
            f"{cell.token_seconds:.4f} s where peaks allow {token_floor:.4f} s"
        )
    return kept, dropped
