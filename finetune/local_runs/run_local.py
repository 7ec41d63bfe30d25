"""A local run from its job to its result: read, judge, train, judge, write."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from finetune.base_model import BaseModel, load_base_model
from finetune.errors import LocalRunError, RunFolderError
from finetune.local_runs.checkpoint import CheckpointHeader, read_header, write_checkpoint
from finetune.local_runs.judging import Judge
from finetune.local_runs.local_folder import LocalFolder, LocalResult, StepLine
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_result import write_result
from finetune.local_runs.local_text import BatchOrder, LocalText, read_text
from finetune.local_runs.plan_journal import PlanJournal
from finetune.local_runs.planning_ahead import PlanningAhead
from finetune.local_runs.ranks import Ranks, from_rank_zero, on_rank_zero
from finetune.local_runs.step_plans import StepPlans
from finetune.local_runs.trained_model import trained_model
from finetune.local_runs.training_fleet import make_step_plans, model_sizes, own_cluster
from finetune.local_runs.training_loop import LocalObserver, TrainingLoop
from finetune.sequence_parallel.group_pool import GroupPool
from finetune.sequence_parallel.step import SequenceParallelStep

logger = logging.getLogger(__name__)


def run_local(job: LocalJob, *, folder: Path, ranks: Ranks, observer: LocalObserver) -> LocalResult:
    """Run a job to its end, going on where an interrupted run of it stopped; all ranks must call.

    A finished run is not repeated. Nothing is written before model and text have been read.

    Args:
        job: What to do; its `output` is not looked at.
        folder: The run folder, rank 0's.
        ranks: This process among the others.
        observer: Told of phases and steps on rank 0.

    Raises:
        FinetuneError: If the job cannot be run as asked; on every rank.
        PlannerError: The same, on rank 0, where a file or a plan is at fault.
    """
    run = LocalFolder(folder)
    if (result := from_rank_zero(ranks, lambda: _finished(run, job, ranks))) is not None:
        return result
    inputs = read_inputs(job, ranks, observer)
    with _held(run, job, ranks):
        return _train(run, inputs, ranks, observer)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run begins with, the same on every rank.

    Attributes:
        job: What to do.
        base: The base model; its network is the trained one's.
        model: The network with its adapter, if it has one.
        text: Sequences to train and to judge by.
        order: Which step takes which.
    """

    job: LocalJob
    base: BaseModel
    model: nn.Module
    text: LocalText
    order: BatchOrder


def read_inputs(job: LocalJob, ranks: Ranks, observer: LocalObserver) -> Inputs:
    """Load the base model, read and tokenise the text; all ranks must call.

    Raises:
        FinetuneError: If they do not serve.
    """
    observer.phase("loading the base model")
    base = load_base_model(job.model)
    if len(set(ranks.gather(base.weights_sha256))) > 1:
        raise LocalRunError(
            f"model {job.model!r} has other weights in one process than in another; bring the "
            "same to every machine"
        )
    model = trained_model(base, job)
    observer.phase("reading the text")
    text = from_rank_zero(
        ranks, lambda: read_text(job, encode=base.encode, render_chat=base.render_chat)
    )
    if ranks.rank == 0:
        logger.info(
            "text read documents=%d held_out=%d empty=%d dropped_long=%d cut=%d",
            len(text.training),
            len(text.held_out),
            text.num_dropped_empty,
            text.num_dropped_long,
            text.num_cut,
        )
    return Inputs(job, base, model, text, BatchOrder(job, num_documents=len(text.training)))


def _finished(run: LocalFolder, job: LocalJob, ranks: Ranks) -> LocalResult | None:
    """Return the result of a finished run of this job, None where there is something to do."""
    run.check(job, num_processes=ranks.world_size)
    result = run.result()
    if result is not None:
        if not run.result_of(job).is_dir():
            raise RunFolderError(
                run.folder,
                f"is of a finished run and its {result.result} folder is gone; choose another "
                "folder with --output",
            )
        logger.info("run is finished folder=%s", run.folder)
    return result


@contextmanager
def _held(run: LocalFolder, job: LocalJob, ranks: Ranks) -> Iterator[None]:
    """Hold the run folder on rank 0; where that fails, every rank says why."""
    with ExitStack() as stack:
        on_rank_zero(
            ranks, lambda: stack.enter_context(run.held(job, num_processes=ranks.world_size))
        )
        yield


def _train(run: LocalFolder, inputs: Inputs, ranks: Ranks, observer: LocalObserver) -> LocalResult:
    """Train what the run folder does not hold yet, judge and write the result."""
    job, model, text, order = inputs.job, inputs.model, inputs.text, inputs.order
    plans = _step_plans(inputs, ranks)
    judge = Judge(text, job, plans, ranks)
    step = SequenceParallelStep(
        model,
        pool=GroupPool(),
        device=ranks.device,
        precision=job.precision,
        sharding=job.sharding,
    )
    loop = TrainingLoop(job, model, step, text, ranks, run)
    start = _start(run, inputs, ranks)
    if start is None:
        observer.phase("judging the base model")
        base_loss, num_tokens = judge.loss(step, model)
        start = CheckpointHeader(
            completed_steps=0,
            base_weights_sha256=inputs.base.weights_sha256,
            text_sha256=text.sha256,
            base_loss=base_loss,
            held_out_tokens=num_tokens,
        )
        on_rank_zero(ranks, lambda: write_checkpoint(run.checkpoint, {}, start))
    elif start.completed_steps:
        loop.restore()
    history = on_rank_zero(ranks, lambda: _history(run, start.completed_steps)) or []
    if history:
        observer.steps_done(history, num_steps=order.num_steps)

    def told(line: StepLine) -> None:
        history.append(line)
        observer.steps_done(history, num_steps=order.num_steps)

    journal = on_rank_zero(
        ranks, lambda: PlanJournal(run.folder, completed_steps=start.completed_steps)
    )
    observer.phase("training")
    with PlanningAhead(plans, journal, text.training, order, ranks) as planning:
        loop.train(planning, start, num_steps=order.num_steps, told=told)
    observer.phase("judging the result")
    loss, num_tokens = judge.loss(step, model)
    result = LocalResult(
        result="model" if job.adapter is None else "adapter",
        steps=order.num_steps,
        held_out_tokens=num_tokens,
        base_loss=start.base_loss,
        loss=loss,
        num_dropped_empty=text.num_dropped_empty,
        num_dropped_long=text.num_dropped_long,
        num_cut=text.num_cut,
    )
    observer.phase("writing the result")
    write_result(run.result_of(job), model, inputs.base, job, result, ranks)
    on_rank_zero(ranks, lambda: run.finish(result))
    return result


def _step_plans(inputs: Inputs, ranks: Ranks) -> StepPlans | None:
    """Return on rank 0 what plans the steps."""
    cluster, sizes = own_cluster(ranks), model_sizes(inputs.model)
    num_steps = inputs.order.num_steps
    return on_rank_zero(
        ranks, lambda: make_step_plans(inputs.job, sizes, num_steps=num_steps, cluster=cluster)
    )


def _start(run: LocalFolder, inputs: Inputs, ranks: Ranks) -> CheckpointHeader | None:
    """Return what the checkpoint is of, on every rank; None where the run begins.

    Raises:
        RunFolderError: If it began with other weights or other text.
    """

    def read() -> CheckpointHeader | None:
        header = read_header(run.checkpoint)
        if header is None:
            return None
        for what, began, now in (
            ("base weights", header.base_weights_sha256, inputs.base.weights_sha256),
            ("text", header.text_sha256, inputs.text.sha256),
        ):
            if began != now:
                raise RunFolderError(
                    run.folder, f"began on other {what}; bring them back or start a new run"
                )
        logger.info("run resumed folder=%s completed_steps=%d", run.folder, header.completed_steps)
        return header

    return from_rank_zero(ranks, read)


def _history(run: LocalFolder, completed_steps: int) -> list[StepLine]:
    """Return the steps that the checkpoint holds; drop the others, which are taken again."""
    run.keep_history(completed_steps)
    return run.history()
