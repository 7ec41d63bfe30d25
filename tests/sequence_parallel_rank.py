"""One process of a sequence-parallel world: runs every case and writes what it got to a folder."""

import sys
from pathlib import Path

import torch
from sequence_parallel_cases import CASES, make_batch
from torch.distributed.tensor import DTensor

from finetune.sequence_parallel.distributed import distributed_job
from finetune.sequence_parallel.group_pool import GroupPool
from finetune.sequence_parallel.sharding import add_up_gradients
from finetune.sequence_parallel.step import SequenceParallelStep


def run(case, pool, device):
    """Return what a step leaves on this rank, taken twice: the second shows that nothing stays."""
    model = case.model()
    with torch.no_grad():  # only rank 0's count
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(pool.rank)
    step = SequenceParallelStep(
        model, pool=pool, device=device, precision=case.precision, sharding=case.sharding
    )
    sequences = make_batch(case.plan.lengths)
    step.accumulate(case.plan, sequences)
    result = step.accumulate(case.plan, sequences)
    gradients = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            whole = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
            gradients[name] = whole.clone()
    return {
        "loss": result.loss,
        "num_targets": result.num_targets,
        "timings": [(t.degree, t.lengths, t.seconds) for t in result.timings],
        "gradients": gradients,
    }


def summed_gradients(rank):
    """Return the sums of gradients of which one is on a single rank, and one on none."""
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad = torch.full((2,), float(rank))
    weights[2].grad = torch.ones(2) if rank == 1 else None
    add_up_gradients(weights)
    return [weight.grad for weight in weights]


def main(folder):
    """Run all cases in one world."""
    with distributed_job("cpu") as device:
        pool = GroupPool()
        found = {}
        for name, case in CASES.items():
            found[name] = run(case, pool, device)
        found["sums"] = summed_gradients(pool.rank)
        found["num_created"] = pool.num_created
        torch.save(found, folder / f"{pool.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
