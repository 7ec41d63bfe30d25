"""Step costs are what a clock says, put together in the right places."""

from serving.tiny.costs import StepCosts
from serving.tiny.measure import RunSeconds, Step, summarise, time_rounds

COUNTS = (1, 2, 3, 4, 6, 8)
ROWS = (1, *(count + 1 for count in COUNTS))


class FakeClock:
    """A clock that only the fake models move."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds

    def step_taking(self, seconds_by_rows: dict[int, float]) -> Step:
        """Return a model whose step takes so long."""

        def step(rows: int) -> None:
            self.seconds += seconds_by_rows[rows]

        return step


def run(draft_seconds: float) -> RunSeconds:
    """Time a draft of that cost beside a target whose step takes a second a row."""
    clock = FakeClock()
    target = clock.step_taking({rows: float(rows) for rows in ROWS})
    draft = clock.step_taking({1: draft_seconds})
    return time_rounds(target, draft, repeats=3, clock=clock)


def test_rounds_are_timed_step_by_step() -> None:
    """A draft of 1 s a step beside a target of 1 s a row costs exactly that at every length."""
    assert summarise([run(1.0)], hardware="a fake") == StepCosts(
        target_seconds_by_rows={rows: float(rows) for rows in ROWS},
        draft_seconds_by_draft_tokens=dict.fromkeys(COUNTS, 1.0),
        draft_fraction_range_by_draft_tokens=dict.fromkeys(COUNTS, (1.0, 1.0)),
        hardware="a fake",
    )


def test_a_slow_first_step_weighs_on_short_rounds() -> None:
    """Where the first draft step of a round takes 3 s and others 1 s, the mean of a round falls."""
    clock = FakeClock()
    is_first = True

    def target(rows: int) -> None:
        nonlocal is_first
        clock.seconds += 2.0
        is_first = True

    def draft(rows: int) -> None:
        nonlocal is_first
        clock.seconds += 3.0 if is_first else 1.0
        is_first = False

    seconds = time_rounds(target, draft, repeats=2, clock=clock)
    assert seconds.draft_seconds_by_draft_tokens == {
        1: 3.0,
        2: 2.0,
        3: 1.666667,
        4: 1.5,
        6: 1.333333,
        8: 1.25,
    }
    assert seconds.draft_fraction_by_draft_tokens[2] == 1.0


def test_runs_are_told_by_median_and_range() -> None:
    """Of runs at 1, 4 and 2 s a draft step the card states 2, from 1 to 4 target steps."""
    costs = summarise([run(1.0), run(4.0), run(2.0)], hardware="a fake")
    assert costs.draft_seconds_by_draft_tokens == dict.fromkeys(COUNTS, 2.0)
    assert costs.draft_fraction_range_by_draft_tokens == dict.fromkeys(COUNTS, (1.0, 4.0))
