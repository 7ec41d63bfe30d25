"""A step of a pipeline played event by event: what the predicted step time is checked against.

Stages, the two directions of each link, and gradients are parts that start when what they wait for
has happened; a queue of happenings in order of time drives them. Nothing here is computed in
advance, and nothing is shared with `makespan.py`.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Literal

from planner.placing.pipeline import Boundary, Pipeline

Work = Literal["forward", "backward"]


def simulate_step(pipeline: Pipeline) -> float:
    """Return when the last of all happenings of one optimiser step is over, in seconds."""
    return _Play(pipeline).run()


class _Clock:
    """What happens, in order of time; of what happens at once, the first announced."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen that many seconds from now."""
        heapq.heappush(self._queue, (self.now + seconds, next(self._numbers), happen))

    def run(self) -> float:
        """Let everything happen, and return when the last of it did."""
        while self._queue:
            self.now, _, happen = heapq.heappop(self._queue)
            happen()
        return self.now


class _Wire:
    """One direction of a link: one message at a time, the others wait in line."""

    def __init__(self, clock: _Clock, boundary: Boundary, deliver: Callable[[], None]) -> None:
        self._clock, self._boundary, self._deliver = clock, boundary, deliver
        self._num_waiting = 0
        self._is_busy = False

    def send(self) -> None:
        """Take a message; it is delivered when it has gone through."""
        self._num_waiting += 1
        self._start()

    def _start(self) -> None:
        if self._is_busy or not self._num_waiting:
            return
        self._num_waiting -= 1
        self._is_busy = True
        self._clock.after(self._boundary.busy_seconds, self._sent)

    def _sent(self) -> None:
        self._is_busy = False
        self._clock.after(self._boundary.latency_seconds, self._deliver)
        self._start()


class _Stage:
    """A device of the pipeline with its list of work, done strictly in order."""

    def __init__(self, clock: _Clock, seconds: dict[Work, float], order: Iterator[Work]) -> None:
        self._clock, self._seconds = clock, seconds
        self._order = deque(order)
        self._is_busy = False
        self.inputs: dict[Work, int] = {"forward": 0, "backward": 0}
        self.on_done: Callable[[Work], None] = lambda _: None
        self.on_finished: Callable[[], None] = lambda: None

    def receive(self, work: Work) -> None:
        """Take the input of one forward or backward."""
        self.inputs[work] += 1
        self.start()

    def start(self) -> None:
        """Begin the next piece of work, if its input is here and nothing else runs."""
        if self._is_busy or not self._order or not self.inputs[self._order[0]]:
            return
        work = self._order.popleft()
        self.inputs[work] -= 1
        self._is_busy = True
        self._clock.after(self._seconds[work], lambda: self._done(work))

    def _done(self, work: Work) -> None:
        self._is_busy = False
        self.on_done(work)
        self.start()
        if not self._order and not self._is_busy:
            self.on_finished()


class _Play:
    """The parts of one step, joined."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._clock = _Clock()
        self._ends_reduced = 0
        self._stages = [
            _Stage(
                self._clock,
                {
                    "forward": pipeline.forward_seconds[index],
                    "backward": pipeline.backward_seconds[index],
                },
                _one_forward_one_backward(index, pipeline),
            )
            for index in range(pipeline.num_stages)
        ]
        for index, stage in enumerate(self._stages):
            self._join(index, stage)

    def run(self) -> float:
        """Hand all micro-batches to the first stage and play to the end."""
        self._stages[0].inputs["forward"] = self._pipeline.num_micro_batches
        self._stages[0].start()
        return self._clock.run()

    def _join(self, index: int, stage: _Stage) -> None:
        ways: dict[Work, Callable[[], None]] = {"backward": lambda: None}
        if index + 1 < len(self._stages):
            following = self._stages[index + 1]
            down = self._pipeline.boundaries[index]
            ways["forward"] = _Wire(self._clock, down, lambda: following.receive("forward")).send
        else:  # the loss is here: a forward's own backward may follow it
            ways["forward"] = lambda: stage.receive("backward")
        if index:
            before = self._stages[index - 1]
            back = self._pipeline.boundaries[index - 1]
            ways["backward"] = _Wire(self._clock, back, lambda: before.receive("backward")).send
        stage.on_done = lambda work: ways[work]()
        stage.on_finished = lambda: self._clock.after(
            self._pipeline.gradient_seconds[index], lambda: self._reduced(index)
        )

    def _reduced(self, index: int) -> None:
        ends = {0, len(self._stages) - 1}
        self._ends_reduced += index in ends
        if index in ends and self._ends_reduced == len(ends):
            self._clock.after(self._pipeline.table_seconds, lambda: None)


def _one_forward_one_backward(stage: int, pipeline: Pipeline) -> Iterator[Work]:
    ahead = pipeline.num_stages - 1 - stage
    num_forwards = num_backwards = 0
    while num_backwards < pipeline.num_micro_batches:
        is_ahead = num_forwards > num_backwards + ahead
        if num_forwards < pipeline.num_micro_batches and not is_ahead:
            num_forwards += 1
            yield "forward"
        else:
            num_backwards += 1
            yield "backward"
