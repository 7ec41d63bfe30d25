"""Do calibrated costs order plans as they are measured? Four gloo processes, random plans.

Random plans of random batches (one or two micro-batches, every way of cutting four ranks into
groups of 1, 2 and 4, sequences drawn by chance) are run by the trainer's step. Costs are fitted to
the groups of the first plans by `calibrate`, which then predicts the others, of which ten random
pairs are compared. Bar: at least 8 of 10 in the order in which they were measured. A plan's time is the
median of its repetitions, taken in turns.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from planner.training.calibration import GroupMeasurement, calibrate
from planner.training.cluster import Cluster, Island
from planner.training.sequence_costs import ModelStates, SequenceCosts, TrainingFleet
from planner.training.training_plan import BatchPlan, MicroBatch, SequenceGroup

NUM_RANKS = 4
NUM_FITTED, NUM_PAIRS = 40, 10
REPETITIONS = 5
LEAST_ORDERED = 8
PARTITIONS = ((4,), (2, 2), (2, 1, 1), (1, 1, 1, 1))
HIDDEN, LAYERS, HEADS = 128, 4, 8
LIMIT_SECONDS = 1500


def run() -> dict[str, object]:
    """Measure, fit, predict; print the pairs and return the figures."""
    generator = random.Random(0)
    plans = [_random_plan(generator) for _ in range(NUM_FITTED + 2 * NUM_PAIRS)]
    measured = _measure(plans)
    fitted_groups = [
        GroupMeasurement(
            lengths=tuple(plan.lengths[i] for i in group.sequences),
            ranks=group.ranks,
            seconds=seconds,
        )
        for plan, (_, groups) in zip(plans[:NUM_FITTED], measured[:NUM_FITTED], strict=True)
        for group, seconds in zip(_groups(plan), groups, strict=True)
    ]
    found = calibrate(fitted_groups, _base(), _cluster(), today=datetime.now(tz=UTC).date())
    fleet = TrainingFleet(_cluster(), found.costs, 4096)
    judged = [
        (_predicted(plan, fleet), seconds)
        for plan, (seconds, _) in zip(plans[NUM_FITTED:], measured[NUM_FITTED:], strict=True)
    ]
    pairs = [(judged[2 * i], judged[2 * i + 1]) for i in range(NUM_PAIRS)]
    ordered = sum((a[0] < b[0]) == (a[1] < b[1]) for a, b in pairs)
    errors = [abs(predicted / seconds - 1) for predicted, seconds in judged]
    _print(pairs, ordered, errors, found.median_error_fraction)
    return {
        "ordered_pairs": ordered,
        "pairs": pairs,
        "median_step_error_fraction": median(errors),
        "median_group_error_fraction": found.median_error_fraction,
        "num_measured_groups": len(fitted_groups),
        "costs": found.costs.model_dump(mode="json"),
        "is_within_bars": ordered >= LEAST_ORDERED,
    }


def worker(plans_file: Path, answer_file: Path) -> None:
    """Run every plan on this rank; rank 0 writes step and group times."""
    import numpy as np
    import torch
    import torch.distributed as dist
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune.sequence_parallel.distributed import distributed_job
    from finetune.sequence_parallel.group_pool import GroupPool
    from finetune.sequence_parallel.step import SequenceParallelStep

    torch.set_num_threads(1)
    plans = [BatchPlan.model_validate(line) for line in json.loads(plans_file.read_text())]
    with distributed_job("cpu") as device:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            vocab_size=512,
        )
        pool = GroupPool()
        step = SequenceParallelStep(LlamaForCausalLM(config), pool=pool, device=device)
        ids = np.random.default_rng(0).integers(0, 512, size=8192)
        times: list[list[tuple[float, list[float]]]] = [[] for _ in plans]
        for repetition in range(REPETITIONS + 1):
            for plan, kept in zip(plans, times, strict=True):
                rows = [ids[:length] for length in plan.lengths]
                one = _step_times(step, plan, rows, dist, pool)
                if repetition:  # the first makes communicators and warms caches
                    kept.append(one)
        if pool.rank == 0:
            answer_file.write_text(json.dumps(times))


def _step_times(step, plan, rows, dist, pool):  # type: ignore[no-untyped-def]
    """Return the step's time and that of each of its groups, seconds.

    A group's is that of the member that came last: what the others took longer was waiting for it.
    """
    import time

    dist.barrier()
    started = time.perf_counter()
    result = step.accumulate(plan, rows)
    dist.barrier()
    seconds = time.perf_counter() - started
    own = iter(result.timings)
    mine = [
        next(own).seconds if any(pool.rank in g.ranks for g in part.groups) else 0.0
        for part in plan.micro_batches
    ]
    gathered: list[list[float]] = [[]] * pool.world_size
    dist.all_gather_object(gathered, mine)
    groups = [
        min(gathered[rank][number] for rank in group.ranks)
        for number, part in enumerate(plan.micro_batches)
        for group in part.groups
    ]
    return seconds, groups


def _measure(plans: Sequence[BatchPlan]) -> list[tuple[float, list[float]]]:
    """Return each plan's median step time and its groups' median times."""
    with tempfile.TemporaryDirectory() as folder:
        written, answer = Path(folder, "plans.json"), Path(folder, "times.json")
        written.write_text(json.dumps([plan.model_dump(mode="json") for plan in plans]))
        with ExitStack() as stack:
            ranks = [
                stack.enter_context(_rank(rank, _free_port(folder), written, answer))
                for rank in range(NUM_RANKS)
            ]
            try:
                statuses = [process.wait(LIMIT_SECONDS) for process in ranks]
                if any(statuses):
                    raise RuntimeError("a rank failed; its words are above")
            finally:
                for process in ranks:
                    process.kill()
        return [
            (
                median(seconds for seconds, _ in runs),
                [median(times) for times in zip(*(groups for _, groups in runs), strict=True)],
            )
            for runs in json.loads(answer.read_text())
        ]


def _rank(rank: int, port: int, plans: Path, answer: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    # In place of this folder, whose modules would pass for libraries of the same name.
    code = (
        f"import sys; from pathlib import Path; sys.path[0] = {str(Path(__file__).parents[1])!r}; "
        "from benchmarks.sequence_parallel import worker; "
        f"worker(Path({str(plans)!r}), Path({str(answer)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


_PORTS: dict[str, int] = {}


def _free_port(folder: str) -> int:
    """Return one port for all ranks of a folder."""
    import socket

    if folder not in _PORTS:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            _PORTS[folder] = probe.getsockname()[1]
    return _PORTS[folder]


def _random_plan(generator: random.Random) -> BatchPlan:
    lengths = tuple(int(2 ** generator.uniform(4, 9.5)) for _ in range(generator.randint(4, 10)))
    order = generator.sample(range(len(lengths)), len(lengths))
    cut = generator.randint(0, len(lengths) - 1)
    parts = [part for part in (order[:cut], order[cut:]) if part]
    micro_batches = tuple(_random_micro_batch(generator, part) for part in parts)
    return BatchPlan(
        lengths=lengths,
        micro_batches=micro_batches,
        predicted_seconds=0.0,
        lower_bound_seconds=0.0,
        solver="heuristic",
        planning_seconds=0.0,
        static=None,
        homogeneous=None,
    )


def _random_micro_batch(generator: random.Random, sequences: Sequence[int]) -> MicroBatch:
    degrees = generator.choice(PARTITIONS)
    taken: list[list[int]] = [[] for _ in degrees]
    for i in sequences:
        generator.choice(taken).append(i)
    groups, first = [], 0
    for degree, own in zip(degrees, taken, strict=True):
        if own:
            ranks = tuple(range(first, first + degree))
            groups.append(
                SequenceGroup(ranks=ranks, sequences=tuple(sorted(own)), predicted_seconds=0.0)
            )
        first += degree
    return MicroBatch(groups=tuple(groups))


def _groups(plan: BatchPlan) -> list[SequenceGroup]:
    return [group for part in plan.micro_batches for group in part.groups]


def _predicted(plan: BatchPlan, fleet: TrainingFleet) -> float:
    return sum(
        max(
            fleet.group_cost(group.ranks).seconds(plan.lengths[i] for i in group.sequences)
            for group in part.groups
        )
        for part in plan.micro_batches
    )


def _cluster() -> Cluster:
    island = Island(
        name="here",
        devices_per_node=NUM_RANKS,
        device="cpu",
        memory_bytes=2**40,
        node_bytes_per_second=1e15,
        nic_bytes_per_second=1e15,
    )
    return Cluster(schema_version=1, islands=(island,))


def _base() -> SequenceCosts:
    """Return the model's shape; its costs are what is fitted."""
    return SequenceCosts(
        schema_version=1,
        name="random-llama",
        attention_seconds_per_token_squared=1e-9,
        linear_seconds_per_token=1e-5,
        micro_batch_seconds=1e-3,
        activation_bytes_per_token=1.0,
        model_states=(ModelStates(max_tokens=4096, num_bytes=0.0),),
        num_layers=LAYERS,
        num_query_heads=HEADS,
        num_key_value_heads=HEADS,
        head_size=HIDDEN // HEADS,
        exchanged_bytes_per_value=4,
        source="before the fit",
        date="2026",
    )


def _print(
    pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]],
    ordered: int,
    errors: Sequence[float],
    group_error: float,
) -> None:
    print(f"{NUM_RANKS} gloo processes, {NUM_PAIRS} pairs of random plans, ms a step")
    print(f"  {'predicted':>20} {'measured':>20}")
    for first, second in pairs:
        told = f"{first[0] * 1e3:8.1f} {second[0] * 1e3:8.1f}"
        seen = f"{first[1] * 1e3:8.1f} {second[1] * 1e3:8.1f}"
        same = (first[0] < second[0]) == (first[1] < second[1])
        print(f"  {told:>20} {seen:>20}  {'same order' if same else 'OTHER ORDER'}")
    print(f"  in the predicted order {ordered} of {len(pairs)}   bar {LEAST_ORDERED}")
    print(f"  median error of a step {median(errors):.1%}, of a fitted group {group_error:.1%}")
