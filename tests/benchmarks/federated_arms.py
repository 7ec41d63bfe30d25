"""What is compared: each arm as the keys in which its job differs from the dense one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.sparsity.config import DEFAULT_SPARSITY

JOB: Mapping[str, Any] = {
    "schema_version": 1,
    "name": "federated-benchmark",
    "model": "serving/models/tiny/draft",
    "rank": 8,
    "alpha": 16,
    "target_modules": [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ],
    "local_steps": 4,
    "batch_size": 2,
    "sequence_tokens": 64,
    "held_out_fraction": 0.2,
    "held_out_tokens": 512,
    "output": "runs/benchmarks/federated/never-written",
}  # fmt: skip
"""4,096 tokens a round: 8 clients, 4 steps, 2 sequences of 64."""

OURS = DEFAULT_SPARSITY.model_dump(mode="json")
ANNEALED_RANK = 2
MIXED_RANKS = (8, 8, 4, 4, 2, 2, 1, 1)
FLASC_DENSITY = 0.25
MASK_DENSITY = 1 / 16


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of the comparison.

    Attributes:
        name: For tables and files.
        title: What differs, in words.
        changes: Keys of the job beside the dense one's.
        tuned_as: The arm whose tuned learning rate it takes.
        mask_density: Share of the entries that are trained at all, fixed after round 1; None: all.
        has_mixed_ranks: Whether clients train, and are sent, unlike numbers of components.
        runs_to_the_end: Whether it goes on when the target is reached, as far as the dense run.
    """

    name: str
    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    tuned_as: str = "dense"
    mask_density: float | None = None
    has_mixed_ranks: bool = False
    runs_to_the_end: bool = False


def _ours(name: str, title: str, *, tuned_as: str = "ours", **changes: Any) -> Arm:
    return Arm(name, title, {"sparsity": {**OURS, **changes}}, tuned_as)


def _strategy(name: str, tuned_as: str = "dense") -> Arm:
    title = f"dense, aggregation {name}"
    return Arm(name, title, {"aggregation": name}, tuned_as, runs_to_the_end=True)


_FIXED = {"download": "change", "download_density": 0.999, "upload_density": 0.999}
_FLASC = {"download": "weights", "error_feedback": None}

DENSE = Arm("dense", "dense LoRA, FedAvg", runs_to_the_end=True)
ALL: tuple[Arm, ...] = (
    DENSE,
    _ours("ours", "our default"),
    _ours("no-sparsity", "ours at density 1", tuned_as="dense", download_density=1.0,
          upload_density=1.0, error_feedback=None),
    _ours("coo", "ours, positions as int32", encoding="coo"),
    _ours("no-feedback", "ours without error feedback", error_feedback=None),
    Arm("annealed", f"dense, rank falling to {ANNEALED_RANK}", {"final_rank": ANNEALED_RANK},
        runs_to_the_end=True),
    Arm("low-rank", f"dense at rank {ANNEALED_RANK} throughout",
        {"rank": ANNEALED_RANK, "alpha": 2 * ANNEALED_RANK}, runs_to_the_end=True),
    Arm("mixed-ranks", "clients of ranks 8 to 1 (HetLoRA-style)", has_mixed_ranks=True),
    Arm("fixed-mask", "one mask from round 1 (SparseAdapter-style)", {"sparsity": _FIXED},
        mask_density=MASK_DENSITY),
    _ours("flasc-equal", "FLASC at our densities", tuned_as="flasc", **_FLASC),
    _ours("flasc", "FLASC at its density 1/4", tuned_as="flasc", **_FLASC,
          download_density=FLASC_DENSITY, upload_density=FLASC_DENSITY),
    _strategy("lora-fair"),
    _strategy("lora-fair-cosine"),
    _strategy("best-rank"),
    _strategy("flora"),
    _strategy("ffa", "ffa"),
    _strategy("fedsvd", "ffa"),
)  # fmt: skip
"""The dense baseline first: it sets each seed's target."""

BY_NAME = {arm.name: arm for arm in ALL}
TUNED = ("dense", "ours", "flasc", "ffa")
"""Arms whose learning rate is chosen, each over the same grid."""

QUICK = ("dense", "ours", "coo", "no-feedback", "flasc", "best-rank", "lora-fair")


def job_document(
    arm: Arm, texts: Mapping[str, str], *, seed: int, learning_rate: float, rounds: int
) -> dict[str, Any]:
    """Return an arm's job file as plain values.

    Args:
        arm: What differs.
        texts: JSON lines files by client.
        seed: Of adapter and batches.
        learning_rate: Of the clients.
        rounds: Most rounds.
    """
    clients = [
        {"name": name, "data": {"kind": "jsonl", "path": path}} for name, path in texts.items()
    ]
    if arm.has_mixed_ranks:
        for client, rank in zip(clients, MIXED_RANKS, strict=True):
            client["rank"] = rank
    own = {"seed": seed, "learning_rate": learning_rate, "rounds": rounds, "clients": clients}
    return {**JOB, **own, **arm.changes}
