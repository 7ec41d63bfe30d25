"""What is held against a replica, by attempts and by checks."""

import pytest
from still_clock import Clock

from router.breaker import BreakerState
from router.faults_config import BreakerConfig
from router.guards import AGAIN_SECONDS, SILENT_ATTEMPTS, SILENT_SECONDS, Guards
from router.upstream_connection import LeaveError

A, B = "http://a", "http://b"
CONFIG = BreakerConfig(consecutive_failures=2, open_seconds=5, max_open_seconds=20)


@pytest.fixture
def clock() -> Clock:
    """Return the guards' clock."""
    return Clock()


@pytest.fixture
def guards(clock: Clock) -> Guards:
    """Return guards of breakers that open at the second failure in a row."""
    return Guards(CONFIG, monotonic=clock)


def fail(guards: Guards, url: str, *, times: int = 1) -> None:
    """Let attempts fail."""
    for _ in range(times):
        guards.begin(url).failed()


def state(guards: Guards, url: str) -> BreakerState:
    """Return the state of one breaker."""
    return guards.states([url])[url]


def test_a_suspect_is_barred_until_a_check_passes(guards: Guards, clock: Clock) -> None:
    """One failure bars its replica and no other one; a check that passes lets it in again."""
    guards.begin(B).succeeded()
    assert guards.barred() == frozenset()
    fail(guards, A)
    assert guards.barred() == {A}
    assert state(guards, A) == BreakerState.CLOSED
    guards.check_passed(A, begun_at=clock.now, was_down=False)
    assert guards.barred() == frozenset()


def test_an_open_breaker_bars_though_checks_pass(
    guards: Guards, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Checks do not close it; when its time is over one probe may go there, and one only."""
    for _ in range(2):
        fail(guards, A)
        guards.check_passed(A, begun_at=clock.now, was_down=False)
    assert (state(guards, A), guards.barred()) == (BreakerState.OPEN, {A})
    assert caplog.text.count("breaker opened url=http://a") == 1
    clock.now += 5
    assert (state(guards, A), guards.barred()) == (BreakerState.HALF_OPEN, frozenset())
    probe = guards.begin(A)
    assert guards.barred() == {A}
    probe.failed()
    assert (state(guards, A), guards.barred()) == (BreakerState.OPEN, {A})
    assert caplog.text.count("breaker opened") == 1
    guards.check_passed(A, begun_at=clock.now, was_down=False)
    clock.now += 10
    guards.begin(A).succeeded()
    assert (state(guards, A), guards.barred()) == (BreakerState.CLOSED, frozenset())


def test_a_replica_that_was_down_is_probed_at_once(guards: Guards, clock: Clock) -> None:
    """A check that finds it up again does not leave it to the breaker's time."""
    fail(guards, A, times=2)
    guards.check_passed(A, begun_at=clock.now, was_down=True)
    assert (state(guards, A), guards.barred()) == (BreakerState.HALF_OPEN, frozenset())


@pytest.mark.parametrize("first", ["succeeded", "failed", "given_up"])
@pytest.mark.parametrize("later", ["succeeded", "failed", "given_up"])
def test_the_first_outcome_counts(guards: Guards, first: str, later: str) -> None:
    """What is told of an attempt a second time changes nothing, whatever it is."""
    ticket = guards.begin(A)
    getattr(ticket, first)()
    barred = guards.barred()
    fail_before = len(barred)
    getattr(ticket, later)()
    assert guards.barred() == barred
    assert fail_before == (first == "failed")
    fail(guards, A)
    assert (state(guards, A) == BreakerState.OPEN) == (first == "failed")


def test_an_attempt_given_up_says_nothing_and_lets_another_probe(
    guards: Guards, clock: Clock
) -> None:
    """Neither good nor bad is known of the replica by it."""
    fail(guards, A, times=2)
    guards.check_passed(A, begun_at=clock.now, was_down=False)
    clock.now += 5
    probe = guards.begin(A)
    assert guards.barred() == {A}
    probe.given_up()
    assert (state(guards, A), guards.barred()) == (BreakerState.HALF_OPEN, frozenset())


def test_the_first_byte_of_a_stream_closes_but_its_break_still_counts(
    guards: Guards, clock: Clock
) -> None:
    """A probe that streams is enough to close; the stream that then breaks makes a suspect."""
    fail(guards, A, times=2)
    guards.check_passed(A, begun_at=clock.now, was_down=True)
    probe = guards.begin(A)
    probe.answers()
    assert state(guards, A) == BreakerState.CLOSED
    probe.failed()
    assert (state(guards, A), guards.barred()) == (BreakerState.CLOSED, {A})


def test_a_busy_replica_is_left_alone_for_its_time(guards: Guards, clock: Clock) -> None:
    """A 429 bars it as long as it asks; nothing is asked of its breaker or of a check."""
    guards.set_aside(A, seconds=3)
    guards.set_aside(B, seconds=2)
    assert guards.barred() == guards.busy() == {A, B}
    assert guards.busy_seconds([A, B]) == 2
    assert guards.busy_seconds([A]) == 3
    assert guards.busy_seconds([]) is None
    clock.now += 2
    assert guards.barred() == guards.busy() == {A}
    clock.now += 1
    assert guards.barred() == guards.busy() == frozenset()
    assert guards.busy_seconds([A, B]) is None


def test_a_wait_of_no_time_sets_nothing_aside(guards: Guards) -> None:
    """With `max_busy_seconds: 0` the next request goes there."""
    guards.set_aside(A, seconds=0)
    assert guards.barred() == guards.busy() == frozenset()


def test_suspects_and_open_breakers_are_not_busy(guards: Guards) -> None:
    """Only what said 429 is: the last resort asks the others."""
    fail(guards, A, times=2)
    guards.set_aside(B, seconds=1)
    assert guards.busy() == {B}
    assert guards.barred() == {A, B}


def test_a_replica_is_better_by_a_check_that_began_after_its_failure(
    guards: Guards, clock: Clock
) -> None:
    """A check under way when the attempt failed proves nothing."""
    fail(guards, A)
    failed_at = clock.now
    assert not guards.is_better_since(A, failed_at)
    guards.check_passed(A, begun_at=failed_at + 0.1, was_down=False)
    assert not guards.is_better_since(A, failed_at)  # not at once, though it is well
    clock.now += AGAIN_SECONDS
    for begun_at, is_better in ((failed_at - 1, False), (failed_at, False), (failed_at + 1, True)):
        guards.check_passed(A, begun_at=begun_at, was_down=False)
        assert guards.is_better_since(A, failed_at) == is_better


def test_a_replica_that_was_only_busy_is_better_when_its_time_is_over(
    guards: Guards, clock: Clock
) -> None:
    """Unless it has failed too: then a check decides."""
    asked_at = clock.now
    guards.set_aside(A, seconds=2)
    assert not guards.is_better_since(A, asked_at)
    clock.now += 2
    assert guards.is_better_since(A, asked_at)
    fail(guards, A)
    assert not guards.is_better_since(A, asked_at)
    assert not guards.is_better_since(B, asked_at)


class Waiting:
    """An exchange without a first byte; takes note of why it ended."""

    def __init__(self) -> None:
        self.error: OSError | None = None

    def fail(self, error: OSError) -> None:
        """End it."""
        self.error = error


def test_attempts_leave_what_checks_find_down(guards: Guards) -> None:
    """Those that wait for a first byte there are ended at once; others wait on."""
    here, there = Waiting(), Waiting()
    guards.of(A).waiting.add(here)
    guards.of(B).waiting.add(there)
    guards.went_down(A)
    assert isinstance(here.error, LeaveError)
    assert there.error is None


def test_one_that_answers_nobody_is_doubted(guards: Guards, clock: Clock) -> None:
    """Many wait, and none has got its first byte for a second; then once a second."""
    guard = guards.of(A)
    guards.awaits(guard)
    guard.waiting.update(Waiting() for _ in range(SILENT_ATTEMPTS - 1))
    clock.now += 60
    assert not guards.is_silent(A)  # a few may wait long
    guard.waiting.add(Waiting())
    guards.heard(guard)
    clock.now += SILENT_SECONDS - 0.01
    assert not guards.is_silent(A)
    clock.now += 0.01
    assert guards.is_silent(A)
    assert guards.barred() == {A}
    assert not guards.is_silent(A)
    clock.now += SILENT_SECONDS
    assert guards.is_silent(A)
    guards.check_passed(A, begun_at=clock.now, was_down=False)
    assert guards.barred() == frozenset()


def test_silence_begins_with_the_first_that_waits(guards: Guards) -> None:
    """A burst after a quiet hour is no silence."""
    guard = guards.of(A)
    guards.awaits(guard)
    guard.waiting.update(Waiting() for _ in range(SILENT_ATTEMPTS))
    assert not guards.is_silent(A)


def test_one_that_has_left_is_forgotten(guards: Guards) -> None:
    """Under the same address another one begins anew, and old attempts cannot tell on it."""
    fail(guards, A, times=2)
    late = guards.begin(A)
    guards.forget(A)
    assert (state(guards, A), guards.barred()) == (BreakerState.CLOSED, frozenset())
    late.failed()
    assert (state(guards, A), guards.barred()) == (BreakerState.CLOSED, frozenset())


def test_other_settings_begin_anew_and_the_same_ones_do_not(guards: Guards, clock: Clock) -> None:
    """A reload that leaves the breaker's settings alone leaves what is known alone."""
    fail(guards, A, times=2)
    late = guards.begin(A)
    guards.configure(CONFIG.model_copy())
    assert state(guards, A) == BreakerState.OPEN
    guards.configure(CONFIG.model_copy(update={"consecutive_failures": 1}))
    guards.check_passed(A, begun_at=clock.now, was_down=False)
    assert (state(guards, A), guards.barred()) == (BreakerState.CLOSED, frozenset())
    late.failed()
    fail(guards, B)
    assert state(guards, B) == BreakerState.OPEN
