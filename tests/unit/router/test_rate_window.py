"""The sliding window of 60 seconds against a log of every amount."""

from hypothesis import given
from hypothesis import strategies as st

from router.governance.window import NUM_CELLS, WINDOW_SECONDS, Window

START = 1_000_000
STEPS = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 50)), max_size=60)


def counted(log: list[tuple[int, int]], now: int) -> int:
    """Return what a log of (second, amount) holds of the last 60 seconds."""
    return sum(amount for second, amount in log if now - second < WINDOW_SECONDS)


@given(STEPS)
def test_the_sum_is_that_of_a_log(steps: list[tuple[int, int]]) -> None:
    """After any pauses the window holds exactly what a log of every amount would."""
    cells = [0] * (NUM_CELLS + 3)
    window, log, now = Window(cells, 3), [], START
    for pause, amount in steps:
        now += pause
        window.advance(now)
        assert window.total == counted(log, now)
        window.add(amount)
        log.append((now, amount))
    assert cells[:3] == [0, 0, 0]


@given(STEPS, st.integers(1, 200))
def test_no_sixty_seconds_hold_more_than_the_limit(
    steps: list[tuple[int, int]], limit: int
) -> None:
    """Whoever asks before each amount never lets more than the limit into any 60 seconds."""
    window, log, now = Window([0] * NUM_CELLS, 0), [], START
    for pause, amount in steps:
        now += pause
        window.advance(now)
        if window.total + amount <= limit:
            window.add(amount)
            log.append((now, amount))
    for second, _ in log:
        assert counted([each for each in log if each[0] <= second], second) <= limit


@given(STEPS, st.integers(1, 50), st.integers(50, 200))
def test_the_wait_is_the_first_second_with_room(
    steps: list[tuple[int, int]], asked: int, limit: int
) -> None:
    """What is told to wait fits after that many seconds and in none before."""
    window, log, now = Window([0] * NUM_CELLS, 0), [], START
    for pause, amount in steps:
        now += pause
        window.advance(now)
        window.add(amount)
        log.append((now, amount))
    wait = window.seconds_until_room(asked, limit)
    assert counted(log, now + wait) + asked <= limit
    assert all(counted(log, now + s) + asked > limit for s in range(1, wait))


@given(STEPS, st.integers(0, 70))
def test_what_is_taken_back_was_never_there(steps: list[tuple[int, int]], later: int) -> None:
    """An amount taken back within its minute leaves the window as if it had not been added."""
    window, log, now = Window([0] * NUM_CELLS, 0), [], START
    for pause, amount in steps:
        now += pause
        window.advance(now)
        window.add(amount)
        log.append((now, amount))
    window.advance(now)
    second = window.newest
    window.add(7)
    window.advance(now + later)
    window.take_back(7, second)
    assert window.total == counted(log, now + later)


def test_a_clock_set_back_neither_frees_nor_blocks() -> None:
    """Set back by seconds the window stands still; set back by an hour it begins anew."""
    window = Window([0] * NUM_CELLS, 0)
    window.advance(START)
    window.add(5)
    window.advance(START - 30)
    assert (window.total, window.newest) == (5, START)
    window.advance(START - 3600)
    assert (window.total, window.newest) == (0, START - 3600)
