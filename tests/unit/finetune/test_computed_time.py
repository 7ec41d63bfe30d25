"""Scheduled jobs under the virtual clock, on clients that add one: saved, continued, left alone."""

from dataclasses import replace

import numpy as np
import pytest

from finetune.aggregation import FEDAVG, STRATEGIES, Aggregation
from finetune.config import JobConfig
from finetune.errors import RoundError
from finetune.flower import make_client_app
from finetune.flower_records import DenseExchange
from finetune.in_process_grid import InProcessGrid
from finetune.patience import IN_PROCESS
from finetune.rounds import FederationState
from finetune.scheduled_rounds.desk import InProcessWorkers
from finetune.scheduled_rounds.memory import (
    ScheduleHeader,
    flattened,
    from_parts,
    to_parts,
    unflattened,
)
from finetune.scheduled_rounds.scheduled_job import Reach, run_schedule
from finetune.scheduling.documents import from_document
from finetune.trust.config import TrustConfig
from finetune.trust.round_trust import CHECKS_ONLY, RoundTrust

NAMES = ("one", "two", "three")
DOWN, UP = "m.lora_A.weight", "m.lora_B.weight"
START = {DOWN: np.eye(2, 3, dtype=np.float32), UP: np.zeros((3, 2), np.float32)}
MACHINES = {
    name: {
        "seconds_per_step": seconds,
        "download_bytes_per_second": 1e3,
        "upload_bytes_per_second": 1e3,
    }
    for name, seconds in zip(NAMES, (1, 2, 7), strict=True)
}
SELECTED = {"selection": {"kind": "uniform", "num_clients": 2}}
SCHEDULINGS = {
    "synchronous": {},
    "deadline": {"round_seconds": 16},
    "fedstale": {**SELECTED, "fedstale": {"beta": 0.7}},
    "fedcompass": {"kind": "fedcompass"},
    "fedbuff": {"kind": "fedbuff", "concurrency": 2},
    "fedast": {"kind": "fedast"},
}
PRODUCTS = Aggregation(STRATEGIES["best-rank"], scale=2.0)
FALLING = replace(PRODUCTS, rank_of_round=lambda number: 2 if number < 3 else 1)
CASES = {name: (scheduling, FEDAVG) for name, scheduling in SCHEDULINGS.items()} | {
    f"{name}-{which}": (SCHEDULINGS[name], aggregation)
    for name in ("fedcompass", "fedbuff", "fedast")
    for which, aggregation in (("products", PRODUCTS), ("falling", FALLING))
}


class Drifting:
    """Adds what its name, the batch and the steps decide; one that is broken sends NaN."""

    def __init__(self, name):
        self.number = NAMES.index(name) + 1
        self.num_examples = self.number
        self.is_broken = False

    def train(self, tensors, *, round_number, num_steps):
        value = np.float32(num_steps * self.number / (10 + round_number))
        value = np.float32(np.nan) if self.is_broken else value
        return {name: 0.9 * tensor + value for name, tensor in tensors.items()}, 1 / round_number


@pytest.fixture
def trainers():
    """Three trainers."""
    return {name: Drifting(name) for name in NAMES}


def run(
    trainers, scheduling, *, state=None, saved=None, rounds=4, aggregation=FEDAVG, trust=CHECKS_ONLY
):
    """Run a job; return the last state and the lines of metrics without their wall times."""
    adapters = ("x", "y") if scheduling.get("kind") == "fedast" else ()
    data = {"kind": "jsonl", "path": "none.jsonl"}
    job = JobConfig.model_validate(
        {
            "schema_version": 1,
            "name": "toy",
            "model": "none",
            "rank": 2,
            "alpha": 4,
            "target_modules": ["q_proj"],
            "rounds": rounds,
            "local_steps": 5,
            "batch_size": 2,
            "sequence_tokens": 8,
            "learning_rate": 0.1,
            "held_out_fraction": 0.5,
            "output": "none",
            "clients": [{"name": name, "data": data} for name in NAMES],
            "scheduling": {**scheduling, "virtual_clock": {"machines": MACHINES}},
            "adapters": [{"name": name} for name in adapters],
        }
    )
    nodes = {number: {"client": name} for number, name in enumerate(NAMES, start=2)}
    app = make_client_app(lambda name: trainers[name.partition("/")[0]])
    exchange, lines = DenseExchange(), []

    def save(state, records):
        lines.extend(replace(record, seconds=0.0) for record in records)
        if saved is not None:
            saved.append((state, len(lines)))
        return state

    first = flattened(dict.fromkeys(adapters or ("",), START))
    reach = Reach(InProcessWorkers(InProcessGrid(app, nodes), exchange), exchange, IN_PROCESS)
    state = run_schedule(
        state or FederationState(0, first, ()),
        reach,
        job=job,
        aggregation=aggregation,
        trust=trust,
        save=save,
    )
    return state, lines


def through_a_file(state):
    """Return a state whose schedule went through the document and arrays of a checkpoint."""
    header, arrays = to_parts(state.schedule)
    read = ScheduleHeader.model_validate_json(header.model_dump_json())
    return replace(state, schedule=from_parts(read, arrays))


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_from_every_version_to_the_same_end(trainers, name):
    """Adapters, lines and all that is remembered are the unbroken run's, to the last bit."""
    saved, (scheduling, aggregation) = [], CASES[name]
    wanted, lines = run(trainers, scheduling, saved=saved, aggregation=aggregation)
    assert len(saved) >= 4
    for state, num_lines in saved[:-1]:
        state = through_a_file(state)
        end, more = run(trainers, scheduling, state=state, aggregation=aggregation)
        assert more == lines[num_lines:]
        assert end.tensors.keys() == wanted.tensors.keys()
        for tensor, array in wanted.tensors.items():
            np.testing.assert_array_equal(end.tensors[tensor], array)
        header, arrays = to_parts(end.schedule)
        wanted_header, wanted_arrays = to_parts(wanted.schedule)
        assert header == wanted_header
        assert arrays.keys() == wanted_arrays.keys()


@pytest.mark.parametrize("name", ["fedcompass", "fedbuff"])
def test_updates_begun_before_the_rank_fell_count_by_their_products(trainers, name):
    """Some wait at rank 2 when the version is at rank 1; kept, each takes twice its start's bytes."""
    saved = []
    state, lines = run(trainers, SCHEDULINGS[name], saved=saved, rounds=6, aggregation=FALLING)
    assert len(state.tensors[DOWN]) == 1
    assert all(line.aggregation_error is not None for line in lines)
    kept = [
        (answer.tensors[DOWN].shape, answer.tensors[UP].shape, len(state.tensors[DOWN]))
        for state, _ in saved
        for answer in state.schedule.answers.values()
    ]
    assert set(kept) == {((4, 3), (3, 4), 2), ((4, 3), (3, 4), 1), ((2, 3), (3, 2), 1)}


@pytest.mark.parametrize("name", SCHEDULINGS)
def test_a_client_that_always_fails_is_left_out(trainers, name):
    """The others make all versions; its refusals are counted, and it is asked three times at most."""
    trainers["two"].is_broken = True
    state, lines = run(trainers, SCHEDULINGS[name], rounds=6)
    assert 1 <= state.num_refused <= 3
    assert all("two" not in line.loss for line in lines)
    reasons = [line.refused["two"] for line in lines if "two" in line.refused]
    assert reasons
    assert all("holds NaN" in reason for reason in reasons)


@pytest.mark.parametrize("name", ["fedbuff", "fedcompass", "fedast"])
def test_a_scheduler_weighs_no_claim_above_the_cap(trainers, name):
    """Three examples count as two, for each adapter that the client has them for."""
    trust = RoundTrust(TrustConfig(most_examples=2))
    state, _ = run(trainers, SCHEDULINGS[name], trust=trust)
    clients = from_document(state.schedule.scheduler).ledger.clients
    adapters = ("x", "y") if name == "fedast" else ("",)
    for adapter in adapters:
        held = {client: one.examples_of(adapter) for client, one in clients.items()}
        assert held == {"one": 1, "two": 2, "three": 2}


def test_a_job_whose_clients_all_fail_ends(trainers):
    """It says so in place of going on for ever."""
    for trainer in trainers.values():
        trainer.is_broken = True
    with pytest.raises(RoundError, match="every client was left out"):
        run(trainers, {"kind": "fedcompass"})


def test_a_remembered_change_stands_in_for_an_absent_client(trainers):
    """With beta 1 a version is the examples' mean of everybody's latest change."""
    stale = {**SELECTED, "fedstale": {"beta": 1}}
    saved = []
    _, lines = run(trainers, stale, saved=saved, rounds=6)
    remembered, start = {}, START
    for line, (state, _) in zip(lines, saved, strict=True):
        before = dict(remembered)
        for name in line.loss:
            # What the client makes of the version before, in the round of that number.
            trained, _ = trainers[name].train(start, round_number=line.round, num_steps=5)
            remembered[name] = trained[UP] - start[UP]
        total, share = 6, sum(trainers[name].number for name in line.loss) / 6
        mean = sum(trainers[name].number / total * change for name, change in before.items())
        for name in line.loss:
            correction = remembered[name] - before.get(name, 0)
            mean = mean + trainers[name].number / total * correction / share
        wanted = start[UP] + mean
        np.testing.assert_allclose(state.tensors[UP], wanted, atol=1e-5)
        start = state.tensors


def test_adapters_keep_their_names_in_a_checkpoint():
    """Several stand side by side; a single one has PEFT's own names."""
    several = {"x": START, "y": START}
    assert unflattened(flattened(several)).keys() == several.keys()
    assert flattened({"": START}).keys() == START.keys()
    assert unflattened(START).keys() == {""}
