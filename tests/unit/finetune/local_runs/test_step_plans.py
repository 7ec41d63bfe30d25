"""Plans of steps: solved, taken from a ready plan, made ahead, recorded and used again."""

import threading

import numpy as np
import pytest
import torch
from local_job_files import local_job_content, small_cluster, small_costs

from finetune.errors import LocalRunError, RunFolderError
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_text import BatchOrder
from finetune.local_runs.plan_journal import PLANS_FILE, PlanJournal
from finetune.local_runs.planning_ahead import PlanningAhead
from finetune.local_runs.ranks import Alone
from finetune.local_runs.step_plans import ReadyPlans, SolvedPlans, solved
from planner.errors import InfeasibleError
from planner.training.cluster import Cluster
from planner.training.placement import Placement, Stage
from planner.training.sequence_costs import SequenceCosts, TrainingFleet
from planner.training.training_plan import TrainingPlan

ROWS = [np.arange(length) for length in (8, 20, 12, 16, 9, 11, 30)]


def job_of(**changes):
    """Return a job of five steps."""
    return LocalJob.model_validate(local_job_content("m", "t", **changes))


def fleet(num_devices=2, device_tokens=32):
    """Return two devices that hold little."""
    return TrainingFleet(
        Cluster.model_validate(small_cluster(num_devices=num_devices)),
        SequenceCosts.model_validate(small_costs(device_tokens=device_tokens)),
        max_tokens=128,
    )


def ready_plan(lengths=((8, 20), (12, 16)), **changes):
    """Return a plan of two batches."""
    own = fleet()
    plan = TrainingPlan(
        schema_version=1,
        model="toy",
        cluster=own.cluster,
        costs=own.costs,
        max_tokens=128,
        batch_size=2,
        batches=tuple(solved(batch, own) for batch in lengths),
    )
    return plan.model_copy(update=changes)


def follow(plan, **changes):
    """Return what follows a plan."""
    wanted = {"num_steps": 2, "num_devices": 2, "num_heads": 2}
    return ReadyPlans(plan, **(wanted | changes))


def placed(**degrees):
    """Return a placement with some degrees above 1."""
    wanted = {"tensor": 1, "pipeline": 1, "data": 2} | degrees
    stage = Stage(island=0, num_layers=2, ranks=(0, 1))
    return Placement(**wanted, num_micro_batches=1, stages=(stage,), predicted_seconds=1.0)


def test_a_long_sequence_gets_more_devices():
    """A sequence beyond one device's memory is shared; short ones are not."""
    plan = SolvedPlans(fleet(), job_of()).plan(0, (60, 8, 9))
    degrees = {
        place: g.degree for m in plan.micro_batches for g in m.groups for place in g.sequences
    }
    assert degrees[0] == 2
    assert plan.lengths == (60, 8, 9)


def test_a_sequence_beyond_all_devices_is_told():
    """The solver's own line says what does not fit."""
    with pytest.raises(InfeasibleError):
        SolvedPlans(fleet(), job_of()).plan(0, (65,))


def test_a_ready_plan_is_followed_batch_by_batch():
    """Each step has the plan's groups and the sequences' own lengths."""
    plan = ready_plan(lengths=((8, 20), (12, 16)), pad_to=4)
    plans = follow(plan)
    assert plans.plan(1, (10, 15)).micro_batches == plan.batches[1].micro_batches
    assert plans.plan(1, (10, 15)).lengths == (10, 15)
    assert plans.plan_held_out((5, 6)).lengths == (5, 6)


@pytest.mark.parametrize(
    ("plan", "changes", "message"),
    [
        (ready_plan(placement=placed(tensor=2)), {}, "plan: its tensor degree is 2"),
        (ready_plan(placement=placed(pipeline=3)), {}, "plan: its pipeline degree is 3"),
        (ready_plan(not_runnable="heads"), {}, "plan: is not to be run (heads)"),
        (ready_plan(), {"num_devices": 4}, "plan: is for 2 devices and 4 processes run"),
        (ready_plan(), {"num_steps": 3}, "plan: has 2 batches and the job takes 3 steps"),
        (ready_plan(lengths=((60,), (5,))), {"num_heads": 3}, "divide the model's 3 query heads"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_by_name(plan, changes, message):
    """One line names the part that stands in the way."""
    with pytest.raises(LocalRunError) as caught:
        follow(plan, **changes)
    assert message in str(caught.value)


def test_a_plan_that_trains_a_sequence_twice_is_refused():
    """A batch whose groups do not add up to its sequences is no plan."""
    plan = ready_plan()
    batch = plan.batches[0].model_copy(update={"micro_batches": plan.batches[0].micro_batches * 2})
    with pytest.raises(LocalRunError, match="does not train each sequence once"):
        follow(plan.model_copy(update={"batches": (batch, plan.batches[1])}))


@pytest.mark.parametrize("lengths", [(8, 21), (8,), (8, 20, 5)])
def test_a_plan_of_other_text_is_told(lengths):
    """The line names batch and sequence, and how to plan again."""
    with pytest.raises(LocalRunError, match=r"plan: batch 1 is of other text .*--lengths"):
        follow(ready_plan()).plan(0, lengths)


class Recorder:
    """Plans by the solver, notes where and for whom; fails where asked to."""

    def __init__(self, failing=None):
        self.plans, self.failing = SolvedPlans(fleet(), job_of()), failing
        self.made = []
        self.ahead = threading.Event()

    def plan(self, step, lengths):
        """Plan a step."""
        if step == self.failing:
            raise InfeasibleError("nothing fits; lower max_tokens")
        self.made.append((step, threading.current_thread().name))
        if step > 0:
            self.ahead.set()
        return self.plans.plan(step, lengths)

    def plan_held_out(self, lengths):
        """Plan held-out sequences."""
        return self.plans.plan_held_out(lengths)


def planning(folder, recorder, completed=0):
    """Return what plans the job's steps into a folder."""
    order = BatchOrder(job_of(), num_documents=len(ROWS))
    journal = PlanJournal(folder, completed_steps=completed)
    return PlanningAhead(recorder, journal, ROWS, order, Alone(torch.device("cpu")))


def test_the_next_step_is_planned_while_this_one_trains(tmp_path):
    """By another thread, before anybody asks for it; each step once, in order."""
    recorder = Recorder()
    with planning(tmp_path, recorder) as ahead:
        ahead.take(0)
        assert recorder.ahead.wait(10)
        for step in range(1, 5):
            taken = ahead.take(step)
            assert taken.plan.lengths == tuple(len(ROWS[place]) for place in taken.positions)
    assert [step for step, _ in recorder.made] == list(range(5))
    assert all(name.startswith("planning") for _, name in recorder.made)
    assert len((tmp_path / PLANS_FILE).read_text().splitlines()) == 5


def test_recorded_plans_are_used_again(tmp_path):
    """What a resumed run takes is what was written before the interruption, to the last digit."""
    with planning(tmp_path, Recorder()) as ahead:
        first = [ahead.take(step).plan for step in range(4)]
    recorder = Recorder()
    with planning(tmp_path, recorder, completed=2) as ahead:
        assert [ahead.take(step).plan for step in (2, 3)] == first[2:]
        assert recorder.made == [] or recorder.made[0][0] == 4
        ahead.take(4)
    assert [step for step, _ in recorder.made] == [4]


def test_a_torn_line_is_dropped_and_written_again(tmp_path):
    """A process that was killed while it wrote leaves a plan that was not used yet."""
    with planning(tmp_path, Recorder()) as ahead:
        ahead.take(0)
        ahead.take(1)
    path = tmp_path / PLANS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with planning(tmp_path, Recorder(), completed=1) as ahead:
        ahead.take(1)
    assert [line.split(b'"planning_seconds"')[0] for line in path.read_bytes().splitlines()] == [
        line.split(b'"planning_seconds"')[0] for line in whole.splitlines()
    ]


def test_a_recorded_plan_of_other_text_is_refused(tmp_path):
    """Data that changed under a run does not train by plans of the old."""
    with planning(tmp_path, Recorder()) as ahead:
        ahead.take(0)
    (tmp_path / PLANS_FILE).write_text(
        (tmp_path / PLANS_FILE).read_text().replace('"lengths":[', '"lengths":[99,')
    )
    with (
        planning(tmp_path, Recorder()) as ahead,
        pytest.raises(LocalRunError, match="step 1 was planned for other text"),
    ):
        ahead.take(0)


def test_a_damaged_journal_is_told(tmp_path):
    """A line in the middle that is no plan was not left by an interruption."""
    (tmp_path / PLANS_FILE).write_text("nonsense\n")
    with pytest.raises(RunFolderError, match="is damaged"):
        PlanJournal(tmp_path)


def test_a_plan_that_fails_ends_the_step_that_needs_it(tmp_path):
    """Not the one that trains while it is made."""
    with planning(tmp_path, Recorder(failing=2)) as ahead:
        ahead.take(0)
        ahead.take(1)
        with pytest.raises(InfeasibleError, match="nothing fits"):
            ahead.take(2)
