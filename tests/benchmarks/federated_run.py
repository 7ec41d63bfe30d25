"""One arm, one seed: the product's own rounds in one process, its adapter judged after each."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from benchmarks.federated_arms import Arm
from benchmarks.federated_curves import Point, Run
from peft import PeftModel

from finetune.config import JobConfig
from finetune.federation import load, local_trainer
from finetune.flower import CLIENT_KEY, GridClients, make_client_app
from finetune.flower_records import DenseExchange
from finetune.flower_sparse import SparseExchange
from finetune.in_process_grid import InProcessGrid
from finetune.job import aggregation_of, trust_of
from finetune.rounds import FederationState, RoundRecord, run_round
from finetune.sparsity.density import num_kept
from finetune.sparsity.ends import SparseEnds
from finetune.sparsity.layout import Layout
from finetune.sparsity.top_k import top_k
from finetune.updates import Tensors

Stop = Callable[[Point], bool]
"""Whether a run ends with this round."""


class Federation:
    """A job's clients and its server in this process, wired as `finetune.job` does."""

    def __init__(self, job: JobConfig, *, has_mixed_ranks: bool) -> None:
        """Load the model, read the texts."""
        base, self.model, self.start = load(job, _Silent())
        self.job = job
        self.trainers = {
            client.name: local_trainer(job, client, base, self.model, _Silent())
            for client in job.clients
        }
        ends = None
        if job.sparsity is not None:
            ends = SparseEnds(self.start.first_tensors, job.sparsity)
        nodes = {number: {CLIENT_KEY: name} for number, name in enumerate(self.trainers, start=2)}
        app = make_client_app(
            self.trainers.__getitem__,
            sparse=None if ends is None else ends.clients,
            identity_of=lambda name: self.start.identity,
        )
        exchange = DenseExchange() if ends is None else SparseExchange(ends.server)
        if has_mixed_ranks:
            ranks = {node: job.client_ranks[c[CLIENT_KEY]] for node, c in nodes.items()}
            exchange = DenseExchange(ranks=ranks)
        self.clients = GridClients(InProcessGrid(app, nodes), exchange)

    def losses(self, tensors: Tensors) -> dict[str, float]:
        """Return the held-out loss of an adapter by client; nothing is sent for it."""
        return {name: trainer.evaluate(tensors)[0] for name, trainer in self.trainers.items()}


def run_arm(arm: Arm, job: JobConfig, *, stop: Stop) -> Run:
    """Train until `stop` or the job's last round."""
    began = time.monotonic()
    federation = Federation(job, has_mixed_ranks=arm.has_mixed_ranks)
    aggregation = aggregation_of(job)
    trust = trust_of(job, federation.start.identity)
    first = federation.start.first_tensors
    state = FederationState(0, first, ())
    points = [Point(0, federation.losses(first))]
    while state.completed_rounds < job.rounds and not stop(points[-1]):
        state, record = run_round(state, federation.clients, aggregation=aggregation, trust=trust)
        if record.refused:
            raise RuntimeError(f"{arm.name}: {record.refused}; no update may be refused here")
        if arm.mask_density is not None and state.completed_rounds == 1:
            mask = _mask(first, state.tensors, arm.mask_density)
            _freeze(federation.model, mask)
            tensors = {n: np.where(mask[n], t, first[n]) for n, t in state.tensors.items()}
            state = replace(state, tensors=tensors)
        losses = federation.losses(as_downloaded(state.tensors, job))
        points.append(_point(points[-1], record, losses, arm))
    seconds = time.monotonic() - began
    return Run(arm.name, job.seed, job.learning_rate, points, round(seconds, 1))


def as_downloaded(tensors: Tensors, job: JobConfig) -> Tensors:
    """Return what FLASC judges: of the server's adapter, the weights that clients are sent.

    Without it, or where clients are sent changes, that is the adapter itself.
    """
    sparsity = job.sparsity
    if sparsity is None or sparsity.download == "change":
        return tensors
    layout = Layout.of(tensors)
    k = num_kept(layout.length, sparsity.download_density)
    return layout.tensors(top_k(layout.flat(tensors), k))


def _point(before: Point, record: RoundRecord, losses: dict[str, float], arm: Arm) -> Point:
    both = (record.download, record.upload)
    index_bytes = sum(traffic.index_bytes for traffic in both)
    if arm.mask_density is not None and record.round > 1:
        # Both ends know the mask: what told it counts once, with the first change down.
        index_bytes = record.download.index_bytes if record.round == 2 else 0
    error = record.aggregation_error
    return Point(
        round=record.round,
        losses=losses,
        values_bytes=before.values_bytes + sum(traffic.values_bytes for traffic in both),
        index_bytes=before.index_bytes + index_bytes,
        header_bytes=before.header_bytes + sum(traffic.header_bytes for traffic in both),
        aggregation_error=None if error is None else error.relative,
        rank=record.rank,
    )


def _mask(first: Tensors, trained: Tensors, density: float) -> dict[str, np.ndarray]:
    """Return where the first round changed the adapter most."""
    layout = Layout.of(first)
    change = layout.flat(trained) - layout.flat(first)
    kept = top_k(change, num_kept(layout.length, density))
    return {name: tensor != 0 for name, tensor in layout.tensors(kept).items()}


def _freeze(model: PeftModel, mask: dict[str, np.ndarray]) -> None:
    """Let no gradient through where the mask is False."""
    for name, parameter in model.named_parameters():
        kept = mask.get(name.replace(".default.", "."))
        if kept is not None:
            held = torch.from_numpy(kept.astype(np.float32))
            parameter.register_hook(lambda gradient, held=held: gradient * held)


class _Silent:
    def phase(self, text: str) -> None: ...

    def step(self, round_number: int, loss: float) -> None: ...
