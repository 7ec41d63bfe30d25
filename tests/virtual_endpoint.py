"""A replica that serves in virtual time, by the simulator's rules, behind `Endpoint`'s methods.

`virtual_run` runs a coroutine on a loop whose clock jumps to the next thing that happens, so that
what the load generator measures is exact and takes no time.
"""

import asyncio
import selectors
from dataclasses import dataclass, field

from planner.profiling.clock import Clock
from planner.profiling.endpoint import Answer
from planner.speed.step_times import StepBatch


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: the time it was to wait passes at once."""

    seconds = 0.0

    def select(self, timeout=None):
        if timeout:
            self.seconds += timeout
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-12

    def time(self):
        return self._jumping.seconds


def virtual_run(work):
    """Return the result of `work(clock)`, run in virtual time."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        loop = runner.get_loop()
        return runner.run(work(Clock(now=loop.time, sleep=asyncio.sleep)))


@dataclass(eq=False)
class _Sequence:
    prompt_tokens: int
    output_tokens: int
    computed: int = 0
    times: list[float] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class VirtualEndpoint:
    """One replica; its steps take what `step_times` says."""

    clock: Clock
    step_times: object
    max_sequences: int = 8
    max_batched_tokens: int = 10**9
    overhead_seconds: float = 0.0
    """Between arrival and queue, beside the steps."""
    url: str = "http://virtual"
    takes_token_ids: bool = True
    ignores_eos: bool = True
    fails_at: int | None = None
    """Number of the request that fails, and every one after it."""
    tokens_per_piece: int = 1
    """How many tokens come at once, after the first."""
    num_requests: int = 0

    def __post_init__(self):
        self._waiting, self._running, self._stepping = [], [], None

    async def greet(self):
        """Take everything."""

    async def version(self):
        return {"version": "1.2", "engine": "virtual"}

    async def model_card(self):
        return {}

    async def cache_tokens(self):
        return 4096

    async def complete(self, prompt, *, max_tokens):
        self.num_requests += 1
        if self.fails_at is not None and self.num_requests >= self.fails_at:
            return Answer(end_seconds=self.clock.now(), failure="scripted")
        sequence = _Sequence(len(prompt), max_tokens)
        await asyncio.sleep(self.overhead_seconds)
        self._waiting.append(sequence)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._steps())
        await sequence.done.wait()
        times = (*sequence.times[: -1 : self.tokens_per_piece], sequence.times[-1])
        return Answer(times, times[-1], sequence.prompt_tokens, sequence.output_tokens)

    async def _steps(self):
        # Whoever arrives at this very instant takes part in the first step.
        await asyncio.sleep(0)
        while self._waiting or self._running:
            batch, emitting = self._plan()
            await asyncio.sleep(self.step_times.step_seconds(batch))
            for sequence in emitting:
                sequence.times.append(self.clock.now())
                if len(sequence.times) == sequence.output_tokens:
                    self._running.remove(sequence)
                    sequence.done.set()

    def _plan(self):
        decoding = [each for each in self._running if each.times]
        contexts = sum(each.prompt_tokens + len(each.times) for each in decoding)
        budget = self.max_batched_tokens - len(decoding)
        emitting, tokens, pairs = list(decoding), 0, 0.0
        while budget > 0:
            partial = next((each for each in self._running if each not in emitting), None)
            if partial is None:
                if not self._waiting or len(self._running) == self.max_sequences:
                    break
                partial = self._waiting.pop(0)
                self._running.append(partial)
            chunk = min(budget, partial.prompt_tokens - partial.computed)
            pairs += chunk * (partial.computed + (chunk + 1) / 2)
            partial.computed += chunk
            budget -= chunk
            tokens += chunk
            if partial.computed < partial.prompt_tokens:
                break
            emitting.append(partial)
        return StepBatch(tokens, pairs, len(decoding), contexts), emitting
