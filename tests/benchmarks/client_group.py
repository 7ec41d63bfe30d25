"""How far the update of two processes is from one's, beside one process against itself.

One client's round on the shipped model, float32, Adam: the same sequences in a batch, in another order,
in four accumulated parts, and by two processes. Largest difference of an entry, and of the norm.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.base_model import load_base_model
from finetune.client_group.client_group import ClientGroup
from finetune.client_texts import read_client
from finetune.config import JobConfig
from finetune.lora import attach_adapter, read_tensors, write_tensors
from finetune.optimisation import AdapterOptimisation
from finetune.token_windows import Tokens, round_generator, token_stream, training_batches
from finetune.updates import Tensors

CONTENT = {
    "schema_version": 1,
    "name": "client-group",
    "model": "serving/models/tiny/target",
    "rank": 8,
    "alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "rounds": 1,
    "local_steps": 6,
    "batch_size": 4,
    "sequence_tokens": 64,
    "learning_rate": 0.005,
    "held_out_fraction": 0.2,
    "output": "runs/client-group",
    "clients": [{"name": "one", "data": {"kind": "package", "name": "rich"}}],
}
STEPS = (1, 6)
ORDER = [3, 1, 0, 2]


def run() -> dict[str, object]:
    """Take the steps in each way, print the differences and return them."""
    job, parts, two = (
        JobConfig.model_validate(CONTENT | {"local_training": local})
        for local in ({}, {"gradient_accumulation_steps": 4}, {"processes": 2})
    )
    base = load_base_model(job.model)
    model = attach_adapter(base.model, job)
    first = read_tensors(model)
    texts = read_client(job.clients[0], held_out_fraction=0.2, render_chat=base.render_chat)
    batches = list(
        training_batches(
            token_stream(texts.training, base.encode),
            sequence_tokens=job.sequence_tokens,
            batch_size=job.batch_size,
            num_steps=job.local_steps,
            generator=round_generator(0, client="one", round_number=1),
        )
    )

    def alone(job: JobConfig, batches: Sequence[Tokens]) -> Tensors:
        write_tensors(model, first)
        model.train()
        optimisation = AdapterOptimisation(model, job)
        for batch_SL in batches:
            optimisation.step(batch_SL)
        return read_tensors(model)

    group = ClientGroup(model, two)
    figures = {}
    print(
        "largest entry and norm of the difference to one process, the norm as a share of the update"
    )
    try:
        for steps in STEPS:
            taken = batches[:steps]
            plain = alone(job, taken)
            write_tensors(model, first)
            group.train(first, taken, seed=0, on_step=lambda _: None)
            others = {
                "two processes": read_tensors(model),
                "one, other order": alone(job, [batch[ORDER] for batch in taken]),
                "one, accumulated": alone(parts, taken),
            }
            for name, other in others.items():
                largest, share = _difference(plain, other, first)
                figures[f"{steps} steps, {name}"] = [largest, share]
                print(f"  {steps} steps  {name:<18} {largest:9.2e} {share:9.2e}")
    finally:
        group.close()
    return figures


def _difference(one: Tensors, other: Tensors, first: Tensors) -> tuple[float, float]:
    apart, moved = (_flat(one, tensors) for tensors in (other, first))
    return float(np.abs(apart).max()), float(np.linalg.norm(apart) / np.linalg.norm(moved))


def _flat(one: Tensors, other: Tensors) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(one[name] - other[name]) for name in one]).astype(np.float64)
