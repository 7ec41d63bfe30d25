"""FedCompass rule by rule, with times computed by hand."""

import pytest
from pydantic import ValidationError

from finetune.scheduling.compass_groups import Group, group_to_join, steps_of_new_group
from finetune.scheduling.decisions import Aggregation, Arm, Assignment, Client, Discard
from finetune.scheduling.fedcompass import FedCompass, FedCompassSettings
from finetune.scheduling.staleness import Constant, Hinge, Polynomial

LEAST, MOST = 2, 10


def compass(clients="abc", **changes):
    """Return a scheduler with the paper's rules, one example a client, all of them begun at 0."""
    settings = {"least_steps": LEAST, "most_steps": MOST, "first_steps": MOST, "step_exponent": 0.0}
    scheduler = FedCompass(settings=FedCompassSettings(**(settings | changes)))
    decisions = scheduler.join([Client(name, 1) for name in clients], now=0)
    return scheduler, decisions


def kinds(decisions, kind):
    """Return the decisions of one kind."""
    return [decision for decision in decisions if isinstance(decision, kind)]


def assigned(decisions):
    """Return each assigned client's steps."""
    return {one.client: one.steps for one in kinds(decisions, Assignment)}


def merged(decisions):
    """Return the clients of each aggregation."""
    return [
        [contribution.client for contribution in one.contributions]
        for one in kinds(decisions, Aggregation)
    ]


def group(number, *, expected, latest, fastest=1.0):
    """Return a live group."""
    return Group(
        number=number,
        expected_at_seconds=expected,
        latest_at_seconds=latest,
        fastest_seconds_per_step=fastest,
    )


def test_all_begin_at_one_time_with_the_most_steps():
    """Rule 1: those that join together run Qmax steps from version 0."""
    _, decisions = compass()
    assert [(one.client, one.steps, one.version) for one in decisions] == [
        ("a", 10, 0),
        ("b", 10, 0),
        ("c", 10, 0),
    ]


def test_speed_is_the_first_time_per_step_then_mostly_the_newest():
    """Rule 2: 10 steps in 20 s are 2 s a step; then 5 s a step with weight 0.9 makes 4.7."""
    scheduler, _ = compass("a")
    (_, _, second) = scheduler.arrive(1, now=20)
    assert scheduler.ledger.seconds_per_step["a"] == 2
    scheduler.arrive(second.number, now=20 + 5 * second.steps)
    assert scheduler.ledger.seconds_per_step["a"] == pytest.approx(0.1 * 2 + 0.9 * 5)


def test_no_speed_is_believed_beyond_the_floor():
    """An answer in no time neither promises endless steps nor divides by zero."""
    scheduler, _ = compass("ab", fastest_seconds_per_step=0.5)
    decisions = scheduler.arrive(1, now=0)
    assert scheduler.ledger.seconds_per_step["a"] == 0.5
    assert assigned(decisions) == {"a": 10}
    assert kinds(decisions, Arm)[0].at_seconds == 0 + 10 * 0.5 * 1.5


def test_a_clients_first_answer_is_merged_alone_and_makes_a_version():
    """Rule 3: weight 1/3 at age 0, 1/3 * 2 ** -0.5 at age 1; each makes a version."""
    scheduler, _ = compass()
    (first,) = kinds(scheduler.arrive(1, now=10), Aggregation)
    (second,) = kinds(scheduler.arrive(2, now=11), Aggregation)
    assert (first.version, second.version) == (1, 2)
    assert first.contributions[0].weight == pytest.approx(1 / 3)
    assert second.contributions[0].weight == pytest.approx(1 / 3 * 2**-0.5)


def test_a_client_joins_the_group_that_gives_it_the_most_steps():
    """Rule 4: at 0 with 2 s a step, groups expected at 9 and 13 give 4 and 6 steps."""
    groups = [group(1, expected=9, latest=12), group(2, expected=13, latest=20)]
    joined = group_to_join(groups, now=0, seconds_per_step=2, least_steps=2, most_steps=10)
    assert joined == (groups[1], 6)


def test_of_groups_with_equal_steps_the_later_is_joined():
    """Rule 4: groups expected at 12 and 13 both give 6 steps of 2 s."""
    groups = [group(1, expected=12, latest=18), group(2, expected=13, latest=18)]
    joined = group_to_join(groups, now=0, seconds_per_step=2, least_steps=2, most_steps=10)
    assert joined == (groups[1], 6)


@pytest.mark.parametrize("expected", [3, 22])
def test_a_group_that_gives_too_few_or_too_many_steps_is_not_joined(expected):
    """Rule 4: 1 step is below Qmin 2, 11 steps are above Qmax 10."""
    groups = [group(1, expected=expected, latest=40)]
    assert group_to_join(groups, now=0, seconds_per_step=2, least_steps=2, most_steps=10) is None


def test_a_time_of_whole_steps_gives_all_of_them():
    """A client whose steps just fill the time is not a step short by rounding: 0.3 / 0.1."""
    groups = [group(1, expected=0.3, latest=1)]
    joined = group_to_join(groups, now=0, seconds_per_step=0.1, least_steps=2, most_steps=10)
    assert joined == (groups[0], 3)


@pytest.mark.parametrize(
    ("now", "seconds_per_step", "steps"),
    [
        # Latest 20, then ten steps of 1 s: the time to aim at is 30.
        (0, 4, 7),
        (0, 1, 10),
        (10, 15, 2),
        (20, 4, 10),
    ],
)
def test_a_new_group_meets_the_fastest_of_another_a_round_later(now, seconds_per_step, steps):
    """Rule 5: 30 / 4 gives 7; 30 steps are too many, so Qmax; 1 step becomes Qmin; a late group none."""
    groups = [group(1, expected=10, latest=20, fastest=1.0)]
    chosen = steps_of_new_group(
        groups, now=now, seconds_per_step=seconds_per_step, least_steps=2, most_steps=10
    )
    assert chosen == steps


def test_a_new_group_takes_the_most_of_the_steps_that_are_not_too_many():
    """Rule 5: of 3, 8 and 12 steps the 8 are taken."""
    groups = [group(n, expected=1, latest=t) for n, t in enumerate((2, 22, 38))]
    chosen = steps_of_new_group(groups, now=0, seconds_per_step=4, least_steps=2, most_steps=10)
    assert chosen == 8


def test_the_first_group_runs_the_most_steps_and_sets_its_times():
    """Rule 6: 10 steps of 1 s from 10 on are expected at 20, and at 25 at the latest."""
    scheduler, _ = compass()
    decisions = scheduler.arrive(1, now=10)
    assert assigned(decisions) == {"a": 10}
    (arm,) = kinds(decisions, Arm)
    made = scheduler.groups[arm.number]
    assert (made.expected_at_seconds, made.latest_at_seconds, arm.at_seconds) == (20, 25, 25)


def three_speeds():
    """Return a scheduler at 30 s: a (1 s a step) joins b (2 s a step); both are expected at 34."""
    scheduler, _ = compass()
    first = scheduler.arrive(1, now=10)
    # b at 20: a's group is expected at once; 25 + 10 * 1 - 20 = 15 s make 7 steps, until 34.
    slow = scheduler.arrive(2, now=20)
    assert assigned(slow) == {"b": 7}
    # a alone at 20; b's group would give 14 steps, and 41 + 10 * 2 - 20 = 41: both too many.
    again = scheduler.arrive(kinds(first, Assignment)[0].number, now=20)
    assert (merged(again), assigned(again)) == ([["a"]], {"a": 10})
    joined = scheduler.arrive(kinds(again, Assignment)[0].number, now=30)
    assert assigned(joined) == {"a": 4}
    assert kinds(joined, Arm) == []
    return scheduler, kinds(slow, Assignment)[0], kinds(joined, Assignment)[0]


def test_a_group_is_merged_when_its_last_member_answers():
    """Rule 7: the first to answer waits without work, the second brings the merge."""
    scheduler, slow, fast = three_speeds()
    assert scheduler.arrive(fast.number, now=33.9) == []
    decisions = scheduler.arrive(slow.number, now=34)
    assert merged(decisions) == [["a", "b"]]


def test_the_deadline_merges_a_group_without_the_missing():
    """Rule 7: at 41, b's group holds only a's answer; it is merged and a goes on."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    decisions = scheduler.deadline(scheduler.group_of[slow.number], now=41)
    assert merged(decisions) == [["a"]]
    assert set(assigned(decisions)) == {"a"}


def test_a_late_answer_waits_for_the_next_merge_and_its_client_goes_on_at_once():
    """Rule 8: b answers at 42, gets the current version, and counts once in the next merge."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    on = scheduler.deadline(scheduler.group_of[slow.number], now=41)
    late = scheduler.arrive(slow.number, now=42)
    (assignment,) = kinds(late, Assignment)
    assert merged(late) == []
    assert (assignment.client, assignment.version) == ("b", scheduler.ledger.version())
    (following,) = kinds(on, Assignment)
    assert assignment.steps == 2  # 22 s for 7 steps make 3.03 s a step; a is expected at 51
    assert scheduler.arrive(following.number, now=46) == []
    (aggregation,) = kinds(scheduler.arrive(assignment.number, now=47), Aggregation)
    assert [one.number for one in aggregation.contributions] == [
        following.number,
        assignment.number,
        slow.number,
    ]
    assert merged(scheduler.finish(now=47)) == []


def test_a_late_answer_and_a_fresh_one_of_the_same_client_both_count():
    """One merge may hold two updates of a client: neither takes the other's place."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    scheduler.deadline(scheduler.group_of[slow.number], now=41)
    late = scheduler.arrive(slow.number, now=42)
    fresh = kinds(late, Assignment)[0]
    scheduler.leave("a", now=42)
    decisions = scheduler.arrive(fresh.number, now=43)
    assert merged(decisions) == [["b", "b"]]


def test_weights_are_rate_times_staleness_times_the_share_of_examples():
    """Rule 9: 0.9 * (1 + age) ** -0.5 * examples / 8, age in versions since the issue."""
    settings = FedCompassSettings(
        least_steps=LEAST, most_steps=MOST, first_steps=MOST, server_rate=0.9
    )
    scheduler = FedCompass(settings=settings)
    scheduler.join([Client("a", 2), Client("b", 6)], now=0)
    first = scheduler.arrive(1, now=10)
    (second,) = kinds(scheduler.arrive(2, now=12), Aggregation)
    assert kinds(first, Aggregation)[0].contributions[0].weight == pytest.approx(0.9 * 2 / 8)
    assert second.contributions[0].weight == pytest.approx(0.9 * 2**-0.5 * 6 / 8)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_changes_may_be_scaled_to_the_mean_steps_of_those_merged(exponent):
    """4 and 7 steps of one example each, mean 5.5: powers of 5.5 / 4 and 5.5 / 7 on the shares."""
    scheduler, slow, fast = three_speeds()
    changes = {"step_exponent": exponent}
    scheduler.settings = scheduler.settings.model_copy(update=changes)
    scheduler.arrive(fast.number, now=34)
    (aggregation,) = kinds(scheduler.arrive(slow.number, now=34), Aggregation)
    version = aggregation.version - 1
    assert [one.weight for one in aggregation.contributions] == pytest.approx(
        [
            (5.5 / steps) ** exponent / 3 * (1 + version - issued.version) ** -0.5
            for steps, issued in ((4, fast), (7, slow))
        ]
    )


def test_a_first_assignment_may_be_shorter_than_the_others():
    """Few steps tell a slow client's speed early; the default is the least."""
    for first_steps, expected in ((3, 3), (None, LEAST)):
        _, decisions = compass("ab", first_steps=first_steps)
        assert assigned(decisions) == {"a": expected, "b": expected}


def test_members_of_a_merged_group_are_placed_fastest_first_into_other_groups():
    """Rule 9: the fast one opens the next group, the slower one fits itself to it."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(slow.number, now=34)
    merged_group = scheduler.group_of[fast.number]
    decisions = scheduler.arrive(fast.number, now=34)
    # a first: there is no group, so it opens one with 10 steps until 44; b then fits 5 of 2 s.
    assert [(one.client, one.steps) for one in kinds(decisions, Assignment)] == [
        ("a", 10),
        ("b", 5),
    ]
    assert merged_group not in scheduler.groups


@pytest.mark.parametrize("deadline_first", [True, False])
def test_a_deadline_and_the_last_answer_at_one_instant_merge_the_group_once(deadline_first):
    """In either order each answer counts once, and the group is merged once."""
    scheduler, slow, fast = three_speeds()
    number = scheduler.group_of[slow.number]
    scheduler.arrive(fast.number, now=34)
    decisions = []
    if deadline_first:
        decisions += scheduler.deadline(number, now=41)
        decisions += scheduler.arrive(slow.number, now=41)
    else:
        decisions += scheduler.arrive(slow.number, now=41)
        decisions += scheduler.deadline(number, now=41)
    assert merged(decisions) == ([["a"]] if deadline_first else [["a", "b"]])
    assert merged(scheduler.finish(now=41)) == ([["b"]] if deadline_first else [])


def test_an_answer_after_the_latest_time_is_late_though_the_deadline_was_not_told():
    """A loop that is behind does not turn a late answer into one on time."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    assert merged(scheduler.arrive(slow.number, now=41.5)) == [["a"]]
    assert [update.client for update in scheduler.late] == ["b"]


def test_late_answers_wait_no_longer_than_the_idle_limit():
    """With every group far off, the limit's deadline merges what is late."""
    scheduler, slow, fast = three_speeds()
    scheduler.settings = scheduler.settings.model_copy(update={"idle_limit_seconds": 0.5})
    scheduler.arrive(fast.number, now=34)
    scheduler.deadline(scheduler.group_of[slow.number], now=41)
    late = scheduler.arrive(slow.number, now=42)
    (arm,) = [one for one in kinds(late, Arm) if one.number == scheduler.idle_deadline]
    assert arm.at_seconds == 42.5
    assert merged(scheduler.deadline(arm.number, now=42.5)) == [["b"]]


def test_a_deadline_without_answers_merges_what_is_late_and_nothing_otherwise():
    """A group nobody answered in still gives late updates their turn."""
    scheduler, _ = compass("ab")
    (_, arm, on) = scheduler.arrive(1, now=10)
    assert scheduler.deadline(arm.number, now=25) == []
    late = scheduler.arrive(on.number, now=26)
    (group_arm,) = [one for one in kinds(late, Arm) if one.number != scheduler.idle_deadline]
    decisions = scheduler.deadline(group_arm.number, now=group_arm.at_seconds)
    assert merged(decisions) == [["a"]]


def test_the_end_merges_everything_that_waits():
    """A run that ends loses no update: those in groups and the late ones are merged together."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    assert merged(scheduler.finish(now=35)) == [["a"]]
    assert isinstance(scheduler.arrive(slow.number, now=36)[0], Discard)


def test_a_client_that_leaves_holds_nobody_up():
    """The group is merged when the one it still waited for is gone."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    decisions = scheduler.leave("b", now=35)
    assert merged(decisions) == [["a"]]
    assert isinstance(scheduler.arrive(slow.number, now=36)[0], Discard)


def test_an_answer_of_a_client_that_left_keeps_its_weight():
    """What was received before counts with the examples of its sender: 0.25 of the four."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    scheduler.leave("a", now=34)
    (aggregation,) = kinds(scheduler.arrive(slow.number, now=34), Aggregation)
    shares = [
        one.weight * (1 + aggregation.version - 1 - one.version) ** 0.5
        for one in aggregation.contributions
    ]
    assert shares == pytest.approx([1 / 3, 1 / 3])


def test_a_refused_answer_counts_nowhere_and_its_client_goes_on():
    """A first answer that fails the checks makes no version; its client gets a group all the same."""
    scheduler, _ = compass()
    decisions = scheduler.arrive(1, now=10, usable=False)
    assert merged(decisions) == []
    assert set(assigned(decisions)) == {"a"}
    assert scheduler.ledger.num_discarded == 1


def test_a_refused_member_does_not_hold_its_group_up():
    """With the other's answer there, a refused one completes the group."""
    scheduler, slow, fast = three_speeds()
    scheduler.arrive(fast.number, now=34)
    decisions = scheduler.arrive(slow.number, now=34, usable=False)
    assert merged(decisions) == [["a"]]
    assert set(assigned(decisions)) == {"a", "b"}


@pytest.mark.parametrize("staleness", [Constant(), Hinge(grace=1)])
def test_staleness_that_does_not_fall_with_every_version_is_refused(staleness):
    """The scheduler's settings name the kind and what to choose."""
    with pytest.raises(ValidationError, match="choose polynomial, or hinge without grace"):
        FedCompassSettings(least_steps=1, most_steps=2, staleness=staleness)


def test_a_rising_exponent_is_refused():
    """The published example's exponent, +0.5 in a factor that grows, cannot be written."""
    with pytest.raises(ValidationError):
        Polynomial(exponent=-0.5)


def test_least_steps_above_most_steps_are_refused():
    """The message says which is too large."""
    with pytest.raises(ValidationError, match="least_steps 5 is above most_steps 2"):
        FedCompassSettings(least_steps=5, most_steps=2)


def test_links_are_not_taken_for_a_slow_machine():
    """2 s of 12 are links: with 10 steps it takes 1 s a step, and joins for what the links leave."""
    scheduler, _ = compass("ab")
    (opening,) = kinds(scheduler.arrive(1, now=12, trained_seconds=10), Assignment)
    assert scheduler.ledger.seconds_per_step["a"] == pytest.approx(1)
    group = scheduler.groups[scheduler.group_of[opening.number]]
    assert group.expected_at_seconds == pytest.approx(12 + 2 + 10)
    (joining,) = kinds(scheduler.arrive(2, now=15, trained_seconds=10), Assignment)
    assert joining.steps == 4  # 9 s until then, 5 of them links


@pytest.mark.parametrize(("claimed", "speed"), [(100.0, 1.2), (-5.0, 1e-3)])
def test_no_impossible_training_time_is_believed(claimed, speed):
    """Of more time than passed all of it is taken, of less than none the fastest speed."""
    scheduler, _ = compass("a")
    scheduler.arrive(1, now=12, trained_seconds=claimed)
    assert scheduler.ledger.seconds_per_step["a"] == pytest.approx(speed)
