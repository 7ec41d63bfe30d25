"""One optimiser step's gradients, computed by groups of ranks as a training plan says."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.distributed.fsdp import FSDPModule

from finetune.errors import SequenceParallelError
from finetune.sequence_parallel.attention import SharedRow
from finetune.sequence_parallel.decoder import Decoder
from finetune.sequence_parallel.group_pool import GroupPool
from finetune.sequence_parallel.head_exchange import HeadExchange
from finetune.sequence_parallel.packed_rows import num_targets, pack_row
from finetune.sequence_parallel.sharding import (
    Sharding,
    add_up_gradients,
    shard,
    take_first_ranks,
)
from finetune.sequence_parallel.token_loss import summed_loss
from planner.training.training_plan import BatchPlan, MicroBatch, SequenceGroup

Precision = Literal["float32", "bfloat16"]
"""Of the arithmetic; weights and gradients keep their own."""


@dataclass(frozen=True, slots=True)
class GroupTiming:
    """How long a group of this rank took for its part of a micro-batch.

    Attributes:
        degree: Ranks of the group.
        lengths: Tokens of each of its sequences.
        seconds: Forward and backward. Where the model is sharded, the wait for ranks of other
            groups is in it.
    """

    degree: int
    lengths: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step's gradients were of.

    Attributes:
        loss: Nats per predicted token of the whole batch; the same on every rank.
        num_targets: Tokens that were predicted.
        timings: For each micro-batch in which this rank had a group.
    """

    loss: float
    num_targets: int
    timings: tuple[GroupTiming, ...]


class SequenceParallelStep:
    """A model whose gradients all ranks of a job compute together.

    Each micro-batch is one forward and backward of each rank: its group's sequences lie packed in
    one row, of which every member holds an equal run of tokens. Weights are no part of a group, so
    groups may change from one micro-batch to the next. Weights that are trained begin as rank 0's;
    the frozen ones must be equal on all ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pool: GroupPool,
        device: torch.device,
        precision: Precision = "float32",
        sharding: Sharding = "replicated",
    ) -> None:
        """Move the model to the device, sharded if asked for; make the optimiser afterwards.

        Args:
            model: A causal language model of transformers, with adapters of PEFT or without.
            pool: The job's groups.
            device: Where this rank computes.
            precision: With bfloat16 torch chooses by operation where it serves.
            sharding: `fsdp2` leaves each rank a part of every tensor; where torch.distributed was
                not begun there is one rank, and nothing to part.

        Raises:
            SequenceParallelError: If the model's rows cannot be shared among ranks.
        """
        self._decoder = Decoder(model)
        self._model = model
        self._pool = pool
        self._device = device
        self._in_bfloat16 = precision == "bfloat16"
        self._is_sharded = sharding == "fsdp2" and pool.is_distributed
        if pool.world_size > 1:
            take_first_ranks(_trained(model), device=device)
        if self._is_sharded:
            shard(model, device=device, in_bfloat16=self._in_bfloat16)
        else:
            model.to(device)
        self._weights = _trained(model)

    def accumulate(self, plan: BatchPlan, sequences: Sequence[NDArray[np.int64]]) -> StepResult:
        """Leave in every weight's `grad` the gradient of the mean loss over the whole batch.

        Whatever the plan, it is that of one device that takes the sequences one after the other;
        what `grad` held before is dropped. Every rank must call, with the same arguments.

        Args:
            plan: Who trains what.
            sequences: The batch's token ids, in the order of the plan's lengths, without padding.

        Raises:
            SequenceParallelError: If the plan is not of this job, model or batch.
        """
        targets = self._prepared(plan, sequences)
        for weight in self._weights:
            weight.grad = None
        summed, timings = self._run(plan, sequences, targets)
        if self._pool.world_size > 1 and not self._is_sharded:
            add_up_gradients(self._weights)
        return StepResult(self._sum_over_ranks(summed) / targets, targets, timings)

    @torch.no_grad()
    def evaluate(self, plan: BatchPlan, sequences: Sequence[NDArray[np.int64]]) -> StepResult:
        """Return the mean loss over the whole batch; `grad` stays as it is.

        Every rank must call, with the same arguments, which are those of `accumulate`.

        Raises:
            SequenceParallelError: If the plan is not of this job, model or batch.
        """
        targets = self._prepared(plan, sequences)
        summed, timings = self._run(plan, sequences, targets)
        if isinstance(self._model, FSDPModule):
            self._model.reshard()  # a backward pass would have done so
        return StepResult(self._sum_over_ranks(summed) / targets, targets, timings)

    def _prepared(self, plan: BatchPlan, sequences: Sequence[NDArray[np.int64]]) -> int:
        """Return the tokens to predict, after all that ranks must agree on beforehand."""
        self._check(plan, sequences)
        self._pool.prepare(g.ranks for part in plan.micro_batches for g in part.groups)
        return num_targets(sequences)

    def _run(
        self, plan: BatchPlan, sequences: Sequence[NDArray[np.int64]], targets: int
    ) -> tuple[float, tuple[GroupTiming, ...]]:
        """Take this rank's group of each micro-batch; return its summed loss and their times."""
        summed, timings = 0.0, []
        with self._decoder.sharing_attention():
            for micro_batch in plan.micro_batches:
                group = self._own_group(micro_batch)
                if group is None and not self._is_sharded:
                    continue
                rows = [sequences[i] for i in group.sequences] if group else []
                began = time.perf_counter()
                summed += self._train(group.ranks if group else (self._pool.rank,), rows, targets)
                seconds = time.perf_counter() - began
                if group is not None:
                    lengths = tuple(len(row) for row in rows)
                    timings.append(GroupTiming(group.degree, lengths, seconds))
        return summed, tuple(timings)

    def _train(self, ranks: tuple[int, ...], rows: list[NDArray[np.int64]], targets: int) -> float:
        """Add the gradients of this rank's share; return its summed loss, nats.

        Without rows a token of padding takes its way through the layers, whose weights the other
        ranks cannot gather without this one.
        """
        exchange = HeadExchange(self._pool.group(ranks))
        member = ranks.index(self._pool.rank)
        share = pack_row(rows, degree=len(ranks), member=member)
        row = SharedRow(exchange, share.spans)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._in_bfloat16):
            loss = summed_loss(self._model, share, row, device=self._device)
        self._decoder.check_calls(row)
        if torch.is_grad_enabled():
            torch.autograd.backward(loss / targets)
        return loss.item()  # waits for the device, so the caller's clock sees the whole

    def _own_group(self, micro_batch: MicroBatch) -> SequenceGroup | None:
        return next((g for g in micro_batch.groups if self._pool.rank in g.ranks), None)

    def _sum_over_ranks(self, value: float) -> float:
        if self._pool.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return float(total.item())

    def _check(self, plan: BatchPlan, sequences: Sequence[NDArray[np.int64]]) -> None:
        """Refuse on every rank alike: one that stopped alone would leave the others waiting."""
        lengths = tuple(len(row) for row in sequences)
        if len(lengths) != len(plan.lengths) or any(
            length > planned for length, planned in zip(lengths, plan.lengths, strict=True)
        ):
            raise SequenceParallelError(
                f"a batch of {len(lengths)} sequences of {sum(lengths)} tokens is not the plan's of "
                f"{len(plan.lengths)} and {sum(plan.lengths)}; plan for this batch"
            )
        if num_targets(sequences) == 0:
            raise SequenceParallelError(
                f"a batch of {len(lengths)} sequences holds no token to predict; give sequences of "
                "2 tokens and more"
            )
        groups = [group for part in plan.micro_batches for group in part.groups]
        if sorted(i for group in groups for i in group.sequences) != list(range(len(lengths))):
            raise SequenceParallelError(
                f"the plan does not train each of {len(lengths)} sequences once; plan again"
            )
        for group in groups:
            self._check_group(group)

    def _check_group(self, group: SequenceGroup) -> None:
        if max(group.ranks) >= self._pool.world_size:
            raise SequenceParallelError(
                f"the plan has a rank {max(group.ranks)} and this job {self._pool.world_size} "
                "processes; start as many as the plan's cluster has devices"
            )
        if self._decoder.num_query_heads % group.degree:
            raise SequenceParallelError(
                f"a group of {group.degree} ranks cannot share {self._decoder.num_query_heads} "
                "query heads; plan without --ignore-heads"
            )


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]
