"""Two runs of which the first good one counts, and which requests get two."""

import asyncio
from dataclasses import dataclass

import pytest

from router.base import Query
from router.call import Call, read_call
from router.faults_config import HedgingConfig
from router.hedging import hedge_seconds, race


@dataclass
class Runs:
    """Runs by script: seconds, then a result or an error; remembers what became of them."""

    scripts: list[tuple[float, object]]
    num_begun: int = 0
    num_cancelled: int = 0

    def next(self):
        """Return the next run, or None if there is none."""
        if self.num_begun == len(self.scripts):
            return None
        self.num_begun += 1
        return self._run(*self.scripts[self.num_begun - 1])

    async def _run(self, seconds: float, outcome: object) -> object:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.mark.parametrize(
    ("scripts", "result", "num_begun", "num_cancelled", "discarded"),
    [
        ([(0, "a"), (0, "b")], "a", 1, 0, []),
        ([(9, "a"), (0, "b")], "b", 2, 1, []),
        ([(0.1, "a"), (9, "b")], "a", 2, 1, []),
        ([(9, "a")], "a", 1, 0, []),
        ([(0.1, "a"), (0.05, ValueError("b"))], "a", 2, 0, []),
        ([(0.1, ValueError("a")), (0.2, "b")], "b", 2, 0, []),
        ([(0.2, "a"), (0.1, "bad")], "a", 2, 0, ["bad"]),
        ([(0.1, "bad"), (0.2, ValueError("b"))], "bad", 2, 0, []),
        ([(0.1, "bad"), (0.2, "bad too")], "bad", 2, 0, ["bad too"]),
    ],
)
async def test_the_first_good_result_counts(
    scripts: list[tuple[float, object]],
    result: str,
    num_begun: int,
    num_cancelled: int,
    discarded: list[str],
) -> None:
    """The loser is cancelled, what is not returned is discarded, failures give way to results."""
    if scripts == [(9, "a")]:
        scripts = [(0.1, "a")]
    runs, given_back = Runs(scripts), []
    found = await race(
        runs.next(),
        runs.next,
        after_seconds=0.02,
        is_good=lambda each: not str(each).startswith("bad"),
        discard=given_back.append,
    )
    assert (found, runs.num_begun, runs.num_cancelled) == (result, num_begun, num_cancelled)
    assert given_back == discarded


async def test_without_a_result_the_first_error_is_raised() -> None:
    """Both runs fail: the first one's error says why."""
    runs = Runs([(0.1, ValueError("a")), (0.05, KeyError("b"))])
    with pytest.raises(ValueError, match="a"):
        await race(
            runs.next(), runs.next, after_seconds=0.01, is_good=lambda _: True, discard=print
        )


async def test_a_cancelled_race_leaves_nothing_running() -> None:
    """Whoever cancels the race cancels both runs."""
    runs = Runs([(9, "a"), (9, "b")])
    racing = asyncio.create_task(
        race(runs.next(), runs.next, after_seconds=0.01, is_good=lambda _: True, discard=print)
    )
    await asyncio.sleep(0.1)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert runs.num_cancelled == 2


@pytest.mark.parametrize("loser_is_done", [False, True])
async def test_a_race_cancelled_after_it_is_won_discards_every_result(loser_is_done: bool) -> None:
    """A winner that nobody will get any more is given back, and so is a loser that cannot stop."""
    is_ending = asyncio.Event()

    async def stubborn() -> str:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            is_ending.set()
            if not loser_is_done:
                await asyncio.sleep(0.05)
        return "loser"

    runs, given_back = Runs([(0.05, "winner")]), []
    racing = asyncio.create_task(
        race(
            stubborn(),
            runs.next,
            after_seconds=0.01,
            is_good=lambda _: True,
            discard=given_back.append,
        )
    )
    await is_ending.wait()
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    await asyncio.sleep(0.1)
    assert sorted(given_back) == ["loser", "winner"]


def call(body: str) -> Call:
    """Return the request of a body."""
    return read_call(body.encode(), target="/v1/completions", headers=())


@pytest.mark.parametrize(
    ("body", "is_hedged"),
    [
        ('{"model": "m", "max_tokens": 16}', True),
        ('{"model": "m", "max_completion_tokens": 16}', True),
        ('{"model": "m", "max_tokens": 17}', False),
        ('{"model": "m"}', False),
        ('{"model": "m", "max_tokens": null}', False),
        ('{"model": "m", "max_tokens": 16, "prompt": "%s"}' % ("x" * 400), False),
    ],
)
def test_only_short_requests_are_hedged(body: str, is_hedged: bool) -> None:
    """The answer must be short by the request's own word, and the prompt by its bytes."""
    config = HedgingConfig(after_seconds=1, max_prompt_tokens=100, max_tokens=16)
    assert (hedge_seconds(config, call(body)) is not None) == is_hedged
    assert hedge_seconds(None, call(body)) is None


def test_a_query_is_enough() -> None:
    """A call made by hand is judged by its query's fields."""
    made = Call("/", (), b"{}", Query("m", {"max_tokens": 1}), withholds_usage=False)
    assert hedge_seconds(HedgingConfig(after_seconds=2), made) == 2
