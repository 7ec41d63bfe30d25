"""The processes of one client that take its steps together; this one is the first of them."""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
import torch.distributed as dist
from peft import PeftModel
from torch._C._distributed_c10d import TCPStore

from finetune.client_group.member import Place, Round, join, member_main
from finetune.client_group.member_watch import PATIENCE_SECONDS, MemberWatch
from finetune.client_group.shared_optimisation import SharedOptimisation
from finetune.client_group.window_plan import window_plan
from finetune.config import JobConfig
from finetune.errors import DeviceError
from finetune.optimisation import own_random_state
from finetune.sequence_parallel.step import SequenceParallelStep
from finetune.token_windows import Tokens
from finetune.updates import Tensors
from planner.training.training_plan import BatchPlan

logger = logging.getLogger(__name__)

_START_SECONDS = 600.0
"""How long another process may take to load the base model."""
_END_SECONDS = 10.0


class ClientGroup:
    """Starts the other processes when first needed, and again after one of them was lost."""

    def __init__(
        self, model: PeftModel, job: JobConfig, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Take the model of this process; start nothing yet.

        Args:
            model: With its adapter.
            job: The federated job.
            patience_seconds: How long another process may be stopped before it is given up.
        """
        self._model = model
        self._job = job
        self._patience = patience_seconds
        self._members: list[tuple[BaseProcess, Connection]] = []
        self._watch: MemberWatch | None = None
        self._step: SequenceParallelStep | None = None
        self._num_threads = torch.get_num_threads()

    def train(
        self,
        tensors: Tensors,
        batches: Sequence[Tokens],
        *,
        seed: int,
        on_step: Callable[[float], None],
    ) -> list[float]:
        """Take one step with each batch; the model holds the adapter afterwards.

        Args:
            tensors: The adapter that the model of this process holds.
            batches: One a step. Shape of each: (S, L).
            seed: Of dropout in the base model, where there is any.
            on_step: Told of each step's loss, nats a token.

        Raises:
            DeviceError: If the processes cannot be started, or one ended or was stopped.
        """
        work = Round(tensors, tuple(batches), self._plan, seed)
        losses = []
        try:
            step = self._started()
            for _, connection in self._members:
                connection.send(work)
            optimisation = SharedOptimisation(self._model, self._job, step)
            with own_random_state(seed, self._model.device), self._share_of_processors():
                for batch_SL in batches:
                    losses.append(optimisation.step(batch_SL, self._plan))
                    on_step(losses[-1])
        except (RuntimeError, OSError) as error:
            lost = self._lost()
            self.close()
            raise DeviceError(
                f"local_training.processes {self._num_processes}: {lost or error}; the round's work "
                "is lost, the next one starts them anew"
            ) from None
        except BaseException:
            self.close()  # the others are in the middle of a step
            raise
        return losses

    @property
    def process_ids(self) -> list[int]:
        """Those of the other processes that were started."""
        return [process.pid for process, _ in self._members if process.pid is not None]

    def close(self) -> None:
        """End the other processes."""
        self._step = None
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        for _, connection in self._members:
            connection.close()
        if dist.is_initialized():
            dist.destroy_process_group()  # whoever waits in an exchange sees its end
        end = time.monotonic() + _END_SECONDS
        for process, _ in self._members:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._members = []

    @cached_property
    def _plan(self) -> BatchPlan:
        return window_plan(self._model, self._job)

    @property
    def _num_processes(self) -> int:
        return self._job.local_training.processes

    def _started(self) -> SequenceParallelStep:
        if self._step is not None:
            return self._step
        store = TCPStore(
            "127.0.0.1", 0, self._num_processes, is_master=True, wait_for_workers=False
        )
        places = self._places(store.port)
        self._num_threads = places[0].num_threads
        context = multiprocessing.get_context("spawn")
        for place in places[1:]:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=member_main,
                args=(theirs, self._job.model_dump_json(), place),
                name=f"client-process-{place.rank}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._members.append((process, ours))
        for place, (_, connection) in zip(places[1:], self._members, strict=True):
            self._await(place, connection)
        self._watch = MemberWatch(
            [process for process, _ in self._members], patience_seconds=self._patience
        )
        self._step = join(self._model, self._job, places[0], store)
        logger.info("client processes started num_processes=%d", self._num_processes)
        return self._step

    def _places(self, port: int) -> list[Place]:
        """Return where each process computes: a GPU each, or an equal share of the processors."""
        job = self._job.local_training
        wants_gpu = job.device != "cpu" and torch.cuda.is_available()
        gpus = _visible_gpus() if wants_gpu else []
        if wants_gpu and len(gpus) < self._num_processes:
            raise DeviceError(
                f"local_training.processes: {self._num_processes} and {len(gpus)} GPUs; lower it, or "
                "take device cpu"
            )
        threads = max(1, torch.get_num_threads() // self._num_processes)
        return [
            Place(rank, self._num_processes, port, gpus[rank] if gpus else None, threads)
            for rank in range(self._num_processes)
        ]

    def _await(self, place: Place, connection: Connection) -> None:
        problem: str | None = f"process {place.rank} did not load the model"
        try:
            if connection.poll(_START_SECONDS):
                problem = connection.recv()
        except (EOFError, OSError):
            problem = f"process {place.rank} ended before it had loaded the model"
        if problem is not None:
            self.close()
            raise DeviceError(f"local_training.processes: {problem}; see the log, or lower it")

    @contextmanager
    def _share_of_processors(self) -> Iterator[None]:
        """Leave the others their threads while all train."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _lost(self) -> str | None:
        """Return which process was lost, and how; None where all still run."""
        if self._watch is not None and self._watch.stopped is not None:
            return f"process {self._watch.stopped} was stopped for {self._patience:.0f} s"
        ended: dict[int, int] = {}
        for rank, (process, _) in enumerate(self._members, start=1):
            process.join(1.0)
            if process.exitcode is not None:
                ended[rank] = process.exitcode
        # One that leaves because another was lost ends as it should.
        failed = {rank: status for rank, status in ended.items() if status} or ended
        for rank, status in failed.items():
            return f"process {rank} ended (status {status})"
        return None


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return named.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]
