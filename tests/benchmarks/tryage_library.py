"""The library of models: an adapter for each domain on each tiny base model, and true losses.

A model's loss on a prompt is that of the prompt's own text, nats a token by teacher forcing, as the
paper's masked-token loss is: both the predictor and the judge see the prompt and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.tryage_texts import DOMAINS, Prompt, Texts
from numpy.typing import NDArray
from peft import PeftModel
from torch.nn.functional import cross_entropy

from finetune.base_model import BaseModel, load_base_model
from finetune.client_texts import ClientTexts
from finetune.config import JobConfig
from finetune.local_training import LocalTrainer
from finetune.lora import attach_adapter, read_tensors, write_tensors
from finetune.updates import Tensors

BASES = {"large": "serving/models/tiny/target", "small": "serving/models/tiny/draft"}
LEARNING_RATES = {"large": 0.002, "small": 0.005}
RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BATCH_SIZE, SEQUENCE_TOKENS = 4, 128
MOST_PROMPT_TOKENS = 256
PROMPTS_AT_ONCE = 16
SETUP = {
    "bases": BASES,
    "learning_rates": LEARNING_RATES,
    "rank": RANK,
    "alpha": ALPHA,
    "targets": TARGETS,
    "batch_size": BATCH_SIZE,
    "sequence_tokens": SEQUENCE_TOKENS,
    "most_prompt_tokens": MOST_PROMPT_TOKENS,
}


Losses = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Member:
    """One model of the library: an adapter on a base."""

    base: str
    domain: str

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.base}-{self.domain}"


def members(bases: Sequence[str]) -> list[Member]:
    """Return the library over some of the bases."""
    return [Member(base, domain) for base in bases for domain in DOMAINS]


class Library:
    """Trains the adapters and judges them, each only once: what is made is kept in a folder."""

    def __init__(self, folder: Path, texts: Texts, *, num_steps: int) -> None:
        """Keep what is made in `folder`; train each adapter for `num_steps`."""
        self._folder = folder
        self._texts = texts
        self._num_steps = num_steps
        self._bases: dict[str, _Base] = {}

    def num_parameters(self, base: str) -> int:
        """Return the size of a base model with one adapter on it."""
        return sum(one.numel() for one in self._base(base).model.parameters())

    def losses(self, prompts: Sequence[Prompt], member: Member, *, part: str) -> Losses:
        """Return a member's loss on each prompt, nats a token. Shape: (num_prompts,)."""

        def make() -> Tensors:
            adapter = self._kept(f"adapter-{member.name}", lambda: self._train(member))
            base = self._base(member.base)
            write_tensors(base.model, adapter)
            return {"losses": prompt_losses(base.model, base.loaded, prompts)}

        return self._kept(f"{part}-{member.name}", make)["losses"]

    def _train(self, member: Member) -> Tensors:
        base = self._base(member.base)
        documents = tuple(self._texts.training[member.domain])
        own = ClientTexts(member.domain, documents, documents[:1])  # none is held out here
        trainer = LocalTrainer(base.model, base.loaded, own, _job(member), lambda *_: None)
        trained, _ = trainer.train(base.untrained, round_number=1, num_steps=self._num_steps)
        return trained

    def _base(self, name: str) -> "_Base":
        if name not in self._bases:
            loaded = load_base_model(BASES[name])
            model = attach_adapter(loaded.model, _job(Member(name, next(iter(DOMAINS)))))
            self._bases[name] = _Base(loaded, model, read_tensors(model))
        return self._bases[name]

    def _kept(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """Return the arrays kept under a name, or make and keep them."""
        path = self._folder / f"{name}.npz"
        if not path.exists():
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, **make())
            partial.replace(path)
        with np.load(path) as kept:
            return {key: kept[key] for key in kept.files}


@dataclass(frozen=True, slots=True)
class _Base:
    loaded: BaseModel
    model: PeftModel
    untrained: Tensors


def prompt_losses(model: PeftModel, base: BaseModel, prompts: Sequence[Prompt]) -> Losses:
    """Return the loss on each prompt's own text, nats a token. Shape: (num_prompts,)."""
    model.eval()
    encoded = [base.encode(prompt.text)[:MOST_PROMPT_TOKENS] for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place]))
    losses = np.empty(len(encoded), dtype=np.float32)
    for start in range(0, len(order), PROMPTS_AT_ONCE):
        chosen = order[start : start + PROMPTS_AT_ONCE]
        losses[chosen] = _batch_losses(model, [encoded[place] for place in chosen])
    return losses


def _batch_losses(model: PeftModel, rows: Sequence[list[int]]) -> Losses:
    """Return the loss of each row. Letters: S rows, L tokens, V vocabulary."""
    longest = max(map(len, rows))
    ids_SL = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    is_token_SL = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        logits_SLV = model(input_ids=ids_SL, attention_mask=is_token_SL).logits[:, :-1]
        each_SL = cross_entropy(logits_SLV.transpose(1, 2), ids_SL[:, 1:], reduction="none")
    counted_SL = is_token_SL[:, 1:]
    return ((each_SL * counted_SL).sum(1) / counted_SL.sum(1)).numpy()


def _job(member: Member) -> JobConfig:
    return JobConfig.model_validate(
        {
            "schema_version": 1,
            "name": "tryage",
            "model": BASES[member.base],
            "rank": RANK,
            "alpha": ALPHA,
            "target_modules": TARGETS,
            "rounds": 1,
            "local_steps": 1,
            "batch_size": BATCH_SIZE,
            "sequence_tokens": SEQUENCE_TOKENS,
            "learning_rate": LEARNING_RATES[member.base],
            "seed": 1,
            "held_out_fraction": 0.5,  # the texts are divided already
            "held_out_tokens": SEQUENCE_TOKENS + 1,
            "output": "runs/benchmarks/tryage/never-written",
            "clients": [{"name": member.domain, "data": {"kind": "package", "name": "none"}}],
        }
    )
