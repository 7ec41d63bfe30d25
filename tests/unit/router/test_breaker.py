"""The circuit breaker against a model that keeps the whole history and is slow."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.breaker import WINDOW_FACTOR, Breaker, BreakerState
from router.faults_config import BreakerConfig

CONFIG = BreakerConfig(
    consecutive_failures=3,
    failure_fraction=0.5,
    min_outcomes=4,
    window_seconds=10,
    open_seconds=2,
    max_open_seconds=8,
)


class Clock:
    """Stands still unless moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class History:
    """Everything since the breaker last closed or opened, as a list of what happened."""

    outcomes: list[tuple[float, bool]] = field(default_factory=list)
    opened_at: float | None = None
    num_reopenings: int = 0
    probe_at: float | None = None
    forced_half_open: bool = False
    serial: int = 0

    def open_seconds(self) -> float:
        return min(CONFIG.max_open_seconds, CONFIG.open_seconds * 2**self.num_reopenings)

    def is_open(self, now: float) -> bool:
        if self.opened_at is None or self.forced_half_open:
            return False
        return now < self.opened_at + self.open_seconds()

    def admits(self, now: float) -> bool:
        if self.is_open(now):
            return False
        return self.probe_at is None or now >= self.probe_at + self.open_seconds()

    def trips(self, now: float) -> bool:
        """Whether the outcomes so far open a closed breaker."""
        last = [failed for _, failed in self.outcomes[-CONFIG.consecutive_failures :]]
        if len(last) == CONFIG.consecutive_failures and all(last):
            return True
        recent = [failed for at, failed in self.outcomes if at >= now - CONFIG.window_seconds]
        recent = recent[-WINDOW_FACTOR * CONFIG.min_outcomes :]
        enough = len(recent) >= CONFIG.min_outcomes
        return enough and sum(recent) >= CONFIG.failure_fraction * len(recent)


class BreakerMachine(RuleBasedStateMachine):
    """Attempts begin and end in any order while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(CONFIG, monotonic=self.clock)
        self.history = History()
        self.running: list[tuple[int, int]] = []
        """Epoch of the breaker and serial number of the history each attempt began in."""

    @rule(seconds=st.sampled_from([0.5, 1, 2, 4, 11]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def begin(self) -> None:
        """An attempt begins, admitted or as a last resort."""
        if self.history.opened_at is not None:
            self.history.probe_at = self.clock.now
        self.running.append((self.breaker.begin(), self.history.serial))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), is_failure=st.booleans())
    def end(self, data: st.DataObject, is_failure: bool) -> None:
        epoch, serial = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        (self.breaker.failed if is_failure else self.breaker.succeeded)(epoch)
        history, now = self.history, self.clock.now
        if serial != history.serial:
            return
        if history.opened_at is not None:
            if is_failure:
                again = history.num_reopenings + 1
                self.history = History(
                    opened_at=now, num_reopenings=again, serial=history.serial + 1
                )
            else:
                self.history = History(serial=history.serial + 1)
            return
        history.outcomes.append((now, is_failure))
        if is_failure and history.trips(now):
            self.history = History(opened_at=now, serial=history.serial + 1)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        epoch, serial = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.breaker.given_up(epoch)
        if serial == self.history.serial:
            self.history.probe_at = None

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def first_byte(self, data: st.DataObject) -> None:
        epoch, serial = data.draw(st.sampled_from(self.running))
        self.breaker.answers(epoch)
        if serial == self.history.serial and self.history.opened_at is not None:
            self.history = History(serial=self.history.serial + 1)

    @rule()
    def come_back(self) -> None:
        self.breaker.half_open()
        if self.history.opened_at is not None:
            self.history.forced_half_open = True
            self.history.probe_at = None
            self.history.serial += 1

    @invariant()
    def agrees(self) -> None:
        now, history = self.clock.now, self.history
        assert self.breaker.is_closed == (history.opened_at is None)
        assert (self.breaker.state is BreakerState.OPEN) == history.is_open(now)
        assert self.breaker.admits() == history.admits(now)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_one_probe_at_a_time() -> None:
    """Half open, the first attempt is let through; the second waits for its outcome."""
    clock = Clock()
    breaker = Breaker(CONFIG, monotonic=clock)
    for _ in range(3):
        breaker.failed(breaker.begin())
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admits()
    clock.now += CONFIG.open_seconds
    assert breaker.admits()
    probe = breaker.begin()
    assert not breaker.admits()
    breaker.succeeded(probe)
    assert breaker.state is BreakerState.CLOSED


def test_attempts_under_way_when_it_opens_change_nothing() -> None:
    """Ten failures of one moment open the breaker once, for the shortest time."""
    clock = Clock()
    breaker = Breaker(CONFIG, monotonic=clock)
    for epoch in [breaker.begin() for _ in range(10)]:
        breaker.failed(epoch)
    clock.now += CONFIG.open_seconds
    assert breaker.state is BreakerState.HALF_OPEN
