"""What the benchmark of bytes reads off its curves, and how it goes on where it was killed."""

import pytest
from benchmarks.federated import _best
from benchmarks.federated_arms import ALL, QUICK, TUNED, job_document
from benchmarks.federated_curves import Point, Run, Store, middle, ratios

from finetune.config import JobConfig

TEXTS = {f"client-{number}": f"{number}.jsonl" for number in range(8)}


def curve(*losses, bytes_a_round=100, arm="dense", rate=0.01):
    """Return a run of two clients around these mean losses, the base model's first."""
    points = [
        Point(
            number,
            {"a": loss - 1, "b": loss + 1},
            values_bytes=number * (bytes_a_round - 10),
            index_bytes=number * 4,
            header_bytes=number * 6,
        )
        for number, loss in enumerate(losses)
    ]
    return Run(arm, 0, rate, points, seconds=1.0)


def test_the_target_is_a_share_of_the_dense_improvement():
    """From 4.0 to 3.0, 95 % is 3.05; the first round at or below it counts, with all its bytes."""
    run = curve(4.0, 3.5, 3.05, 3.1, 3.0)
    target = run.target(0.95)
    assert target == pytest.approx(3.05)
    assert run.reached(target + 1e-9).num_bytes == 200
    assert run.reached(2.9) is None


def test_ratios_are_of_one_seed_each_and_a_miss_is_none():
    """The second seed's target is its own dense run's."""
    dense = [curve(4.0, 3.0), curve(5.0, 4.5, 4.0)]
    ours = [curve(4.0, 3.5, 3.0, bytes_a_round=10), curve(5.0, 4.9, bytes_a_round=10)]
    assert ratios(dense, ours, 0.95) == [5.0, None]
    assert ratios(dense, dense, 0.95) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 12.0, 10.0], 10.0), ([None, 12.0, 10.0], 10.0), ([None, None, 10.0], None)],
)
def test_a_miss_counts_as_the_lowest_ratio(values, expected):
    """A median that falls on a miss is a miss."""
    assert middle(values) == expected


def test_loss_at_equal_bytes_is_of_the_last_round_that_was_paid_for():
    """A budget below the first round buys the base model."""
    run = curve(4.0, 3.5, 3.0)
    assert [run.at_bytes(size).loss for size in (99, 100, 250)] == [4.0, 3.5, 3.0]


def test_the_rate_is_chosen_by_bytes_and_among_misses_by_loss():
    """One that reaches the target wins over a lower last loss that does not exist there."""
    baseline = curve(4.0, 3.5, 3.0)
    slow, fast = curve(4.0, 3.9, 3.0, rate=0.1), curve(4.0, 3.0, rate=0.2)
    assert _best([slow, fast], baseline) == 0.2
    assert _best([curve(4.0, 3.9, rate=0.1), curve(4.0, 3.8, rate=0.2)], baseline) == 0.2


def test_a_finished_run_is_not_made_again(tmp_path):
    """The second time it is read, digit for digit; of other settings it is not found."""
    made = []

    def make():
        made.append(curve(4.0, 3.0))
        return made[-1]

    first = Store(tmp_path, {"rounds": 2}).run("dense-1", make)
    again = Store(tmp_path, {"rounds": 2})
    assert again.has("dense-1")
    assert again.run("dense-1", make) == first
    assert len(made) == 1
    assert not Store(tmp_path, {"rounds": 3}).has("dense-1")


def test_a_run_that_was_killed_leaves_nothing(tmp_path):
    """What fails in the middle is not kept."""
    store = Store(tmp_path, {})
    with pytest.raises(ZeroDivisionError):
        store.run("dense-1", lambda: 1 / 0)
    assert not store.has("dense-1")


@pytest.mark.parametrize("arm", ALL, ids=lambda arm: arm.name)
def test_every_arm_is_a_job(arm):
    """Each is one the product takes, of at most 16,000 tokens a round, alike in what must be."""
    document = job_document(arm, TEXTS, seed=1, learning_rate=0.01, rounds=40)
    job = JobConfig.model_validate(document)
    tokens = len(job.clients) * job.local_steps * job.batch_size * job.sequence_tokens
    assert tokens <= 16_000
    dense = job_document(ALL[0], TEXTS, seed=1, learning_rate=0.01, rounds=40)
    assert job.model == dense["model"]
    assert (job.local_steps, job.batch_size) == (dense["local_steps"], dense["batch_size"])


def test_the_named_arms_exist_and_the_dense_one_is_first():
    """It sets the targets."""
    names = [arm.name for arm in ALL]
    assert len(set(names)) == len(names)
    assert names[0] == QUICK[0] == TUNED[0] == "dense"
    assert {*QUICK, *TUNED, *(arm.tuned_as for arm in ALL)} <= set(names)
    assert {arm.tuned_as for arm in ALL} == set(TUNED)
