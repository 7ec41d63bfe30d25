"""Sending requests at given times, and summing up what came back."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from planner.errors import EndpointError
from planner.profiling.clock import Clock
from planner.profiling.endpoint import Answer, Endpoint, Prompt
from planner.profiling.profile import LatencySummary, Run

WARM_UP_FRACTION = 0.1
"""First requests of a run that are sent and not counted: they meet an empty endpoint."""
FEWEST_REQUESTS = 20
"""Requests of a run: below, its rate and its percentiles would say nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and when."""

    arrival_seconds: float
    """From the start of the run."""
    prompt: Prompt
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Sent:
    """A request's answer; times count from the start of the run."""

    arrival_seconds: float
    """When it was due. A late client makes latency longer, never shorter."""
    answer: Answer

    @property
    def ttft_seconds(self) -> float:
        """From when it was due to the first text."""
        return self.answer.token_seconds[0] - self.arrival_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Time per token after the first; nothing: there is none."""
        if self.answer.output_tokens < 2:
            return None
        times = self.answer.token_seconds
        return (times[-1] - times[0]) / (self.answer.output_tokens - 1)

    @property
    def token_gaps(self) -> tuple[float, ...] | None:
        """Times between tokens; nothing: pieces of text and tokens are not one to one."""
        times = self.answer.token_seconds
        if len(times) != self.answer.output_tokens:
            return None
        return tuple(after - before for before, after in pairwise(times))


def poisson_arrivals(rate_requests_per_second: float, count: int, random: Random) -> list[float]:
    """Return arrival times of a Poisson process that has `count` arrivals in `count / rate` s.

    Given their number, the arrivals of a Poisson process are uniform. So the rate offered is the
    rate asked for, whatever the seed.
    """
    duration = count / rate_requests_per_second
    return sorted(random.uniform(0, duration) for _ in range(count))


async def send(
    endpoint: Endpoint,
    requests: Sequence[Request],
    *,
    clock: Clock,
    max_in_flight: int | None = None,
    on_answer: Callable[[], None] | None = None,
) -> list[Sent]:
    """Send every request when it is due and return the answers, in the order of the requests.

    Args:
        endpoint: Where to.
        requests: In order of arrival.
        clock: Time.
        max_in_flight: Most open requests; one more waits, and its wait counts as latency.
        on_answer: Told of each answer.
    """
    start = clock.now()
    room = asyncio.Semaphore(max_in_flight or len(requests))

    async def one(request: Request) -> Sent:
        await clock.sleep(max(0.0, start + request.arrival_seconds - clock.now()))
        async with room:
            answer = await endpoint.complete(request.prompt, max_tokens=request.output_tokens)
        if on_answer:
            on_answer()
        return Sent(request.arrival_seconds, _counted_from(start, answer))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(request)) for request in requests]
    return [task.result() for task in tasks]


def _counted_from(start: float, answer: Answer) -> Answer:
    times = tuple(each - start for each in answer.token_seconds)
    return Answer(
        times, answer.end_seconds - start, answer.input_tokens, answer.output_tokens, answer.failure
    )


def summary(
    sent: Sequence[Sent],
    *,
    offered_requests_per_second: float,
    max_in_flight: int | None,
    source: str,
) -> Run:
    """Return a run's figures; its first tenth warms up and does not count.

    The rate achieved is the rate offered times the span of the arrivals over the span of the answers'
    ends, at most 1: how long one answer takes does not enter, nor how the arrivals happened to fall.

    Raises:
        EndpointError: If fewer than two requests were answered.
    """
    counted = sent[int(WARM_UP_FRACTION * len(sent)) :]
    answered = [each for each in counted if each.answer.failure is None]
    if len(answered) < 2:
        reason = next(each.answer.failure for each in counted if each.answer.failure)
        raise EndpointError(
            f"{len(counted) - len(answered)} of {len(counted)} requests failed at "
            f"{offered_requests_per_second:.4g} requests/s, the first with: {reason}"
        )
    ends = [each.answer.end_seconds for each in answered]
    arrivals = [each.arrival_seconds for each in answered]
    pace = min(1.0, (max(arrivals) - min(arrivals)) / (max(ends) - min(ends)))
    gaps = [each.token_gaps for each in answered]
    tpot = [each.tpot_seconds for each in answered]
    return Run(
        offered_requests_per_second=offered_requests_per_second,
        achieved_requests_per_second=offered_requests_per_second * pace,
        max_in_flight=max_in_flight,
        num_requests=len(counted),
        num_failures=len(counted) - len(answered),
        duration_seconds=max(ends) - min(arrivals),
        mean_input_tokens=_mean([each.answer.input_tokens for each in answered]),
        mean_output_tokens=_mean([each.answer.output_tokens for each in answered]),
        ttft=LatencySummary.of([each.ttft_seconds for each in answered]),
        tpot=_summary_of([value for value in tpot if value is not None]),
        token_gap=None
        if None in gaps
        else _summary_of([gap for each in gaps for gap in each or ()]),
        source=source,
    )


def _summary_of(values: Sequence[float]) -> LatencySummary | None:
    return LatencySummary.of(values) if values else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
