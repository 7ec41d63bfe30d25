"""What one request has tried."""

import pytest
from still_clock import Clock

from router.attempt import Answer
from router.errors import ReplicaFailedError, ReplicaGarbageError
from router.faults_config import BreakerConfig
from router.guards import Guards
from router.replica import Lease, Replica
from router.traffic_log import RequestRecord
from router.trial import Trial
from router.upstream import UpstreamReply

A, B, C = "http://a", "http://b", "http://c"


@pytest.fixture
def clock() -> Clock:
    """Return the clock of guards and attempts."""
    return Clock()


@pytest.fixture
def guards(clock: Clock) -> Guards:
    """Return guards of replicas nothing is known of."""
    return Guards(BreakerConfig(), monotonic=clock)


@pytest.fixture
def trial() -> Trial:
    """Return a request that has just come and may take ten seconds."""
    record = RequestRecord(arrival_unix_seconds=0.0, arrived_at=100.0, request_id="r")
    return Trial(record, began_at=100.0, deadline_seconds=10.0)


def answer(guards: Guards, url: str, status: int) -> Answer:
    """Return an answer of that status, which nothing has been told of."""
    reply = UpstreamReply(url, status, (), False, b"{}", 1.0, None)
    return Answer(reply, Lease(Replica(url, frozenset())), guards.begin(url), "m")


def test_attempts_are_counted_and_written_down(trial: Trial) -> None:
    """The record has the last replica, and as retries all attempts but the first."""
    for url, num_retries in ((A, 0), (B, 1), (A, 2)):
        trial.begin(url, 101.0)
        assert (trial.record.replica, trial.record.num_retries) == (url, num_retries)
    assert trial.num_attempts == 3
    assert trial.tried == {A: 101.0, B: 101.0}


def test_another_attempt_needs_number_time_and_budget(trial: Trial) -> None:
    """Any one of the three that is used up ends it."""
    trial.begin(A, 100.0)
    assert trial.ends_at == 110.0
    assert trial.may_try(109.9, max_attempts=2)
    assert not trial.may_try(110.0, max_attempts=2)
    assert not trial.may_try(100.0, max_attempts=1)
    trial.is_out_of_budget = True
    assert not trial.may_try(100.0, max_attempts=2)


def test_the_last_failure_is_told(trial: Trial) -> None:
    """With its reason; and the replica counts as tried from the failure on, not the beginning."""
    trial.begin(A, 100.0)
    trial.note_failure(ReplicaFailedError(A, "failed"), 103.0)
    last = ReplicaGarbageError(B, "answered nonsense")
    trial.note_failure(last, 104.0)
    assert (trial.failure, trial.reason) == (last, "garbage")
    assert trial.tried == {A: 103.0, B: 104.0}


def test_the_429_with_the_shortest_wait_is_kept(trial: Trial, guards: Guards) -> None:
    """It is what the client is answered when all are busy; of equal ones the first stays."""
    answers = {url: answer(guards, url, 429) for url in (A, B, C)}
    for url, seconds, kept in ((A, 5.0, A), (B, 2.0, B), (C, 2.0, B), (A, 9.0, B)):
        trial.note_busy(answers[url], seconds, 101.0)
        assert trial.busy is answers[kept]
    assert (trial.busy_seconds, trial.reason) == (2.0, "busy")
    assert set(trial.tried) == {A, B, C}


def test_what_is_better_may_be_tried_again(trial: Trial, guards: Guards, clock: Clock) -> None:
    """One that passed a check since, and one that was only busy; the one that failed may not."""
    for url in (A, B):
        guards.begin(url).failed()
        trial.note_failure(ReplicaFailedError(url, "failed"), clock.now)
    guards.set_aside(C, seconds=1.0)
    trial.note_busy(answer(guards, C, 429), 1.0, clock.now)
    trial.forgive(guards)
    assert set(trial.tried) == {A, B, C}
    began_at = clock.now
    clock.now += 1
    guards.check_passed(B, begun_at=clock.now, was_down=False)
    trial.forgive(guards)
    assert trial.tried == {A: began_at}


def test_the_replicas_are_blamed_for_their_500s(trial: Trial, guards: Guards) -> None:
    """Once another one could answer; each of them is suspect then."""
    for url in (A, B):
        trial.note_internal_error(answer(guards, url, 500))
    assert trial.reason == "internal_error"
    assert guards.barred() == frozenset()
    assert trial.blame() == [A, B]
    assert guards.barred() == {A, B}


def test_nobody_is_blamed_for_a_request_at_fault(trial: Trial, guards: Guards) -> None:
    """An acquittal is final: a blame afterwards changes nothing."""
    trial.note_internal_error(answer(guards, A, 500))
    trial.acquit()
    trial.blame()
    assert guards.barred() == frozenset()
