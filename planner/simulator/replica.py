"""One replica: rules (T1) to (S6) of the package, over many steps at once where nothing changes.

Every decoding sequence gets one token a step, so the step at which it completes is known when its
prefill ends. While nobody prefills, the next thing to happen is the earliest completion, memory
running out, or an arrival that can be admitted; the steps up to there are one run, whose time is
the sum of an arithmetic progression.
"""

import math
from collections import deque
from dataclasses import replace
from heapq import heappop, heappush

from planner.errors import WorkloadError
from planner.simulator.fleet import ReplicaPool
from planner.simulator.gaps import TokenGaps
from planner.simulator.requests import RequestLog
from planner.simulator.runs import DecodeLines, StepRun
from planner.speed.step_times import StepBatch

_PREFILLING = -1
"""Stands for the completing step of a sequence that does not decode yet."""


class Replica:
    """Queue, memory and the planned run of steps of one replica."""

    __slots__ = (
        "_context_tokens",
        "_decode_lines",
        "_emerging",
        "_finishes",
        "_kv_tokens",
        "_log",
        "_num_decoding",
        "_partial",
        "_partial_tokens",
        "_pool",
        "_run",
        "_running",
        "_step",
        "_waiting",
        "busy_seconds",
        "event_seconds",
        "gaps",
        "num_evictions",
        "num_requests",
    )

    def __init__(self, pool: ReplicaPool, log: RequestLog) -> None:
        """Start idle; what happens to requests goes to `log`."""
        self._pool = pool
        self._log = log
        self.gaps: TokenGaps | None = None
        """Where the time between tokens goes; nothing: nowhere."""
        self._decode_lines = DecodeLines(pool.step_times)
        self._waiting: deque[int] = deque()
        # Completing step by request, in the order of admission.
        self._running: dict[int, int] = {}
        # Heap of (completing step, request); stale after an eviction, when `_running` differs.
        self._finishes: list[tuple[int, int]] = []
        self._num_decoding = 0
        self._context_tokens = 0  # computed tokens of the decoding sequences
        self._kv_tokens = 0  # in use; a prefill counts in full
        self._partial: int | None = None
        self._partial_tokens = 0  # computed tokens of the partial prefill
        self._emerging: list[int] = []  # prefills that end with the planned step
        self._step = 0  # steps ended so far
        self._run = StepRun(0.0, 0.0, 0.0, 1)
        self.event_seconds = math.inf
        """When the planned run ends; never while idle."""
        self.busy_seconds = 0.0
        """Time spent in steps that have ended."""
        self.num_evictions = 0
        self.num_requests = 0

    def add(self, request: int, now: float) -> bool:
        """Queue a request; return whether `event_seconds` changed.

        Raises:
            WorkloadError: If the request can never fit the replica's memory.
        """
        needed = self._log.most_kv_tokens(request)
        if needed > self._pool.kv_capacity_tokens:
            raise WorkloadError(
                f"request {request} needs {needed} tokens of KV memory, a replica of "
                f"{self._pool.name} has {self._pool.kv_capacity_tokens}; give its size no share there"
            )
        self.num_requests += 1
        self._waiting.append(request)
        if self.event_seconds == math.inf:
            self._plan(now)
            return True
        # Nobody overtakes a head that was not admitted, and a single step cannot be cut.
        if self._run.num_steps == 1 or len(self._waiting) > 1:
            return False
        if len(self._running) == self._pool.max_sequences:
            return False
        end = self.event_seconds
        self._set_run(self._run.cut_after(now))
        return self.event_seconds != end

    def end_run(self) -> int:
        """End the planned run, plan the next; return how many requests completed."""
        now, run = self.event_seconds, self._run
        self.busy_seconds += now - run.start_seconds
        self._step += run.num_steps
        if self._num_decoding:
            if self.gaps is not None:
                self.gaps.add_run(run, self._num_decoding)
            self._context_tokens += run.num_steps * self._num_decoding
            self._kv_tokens += run.num_steps * self._num_decoding
        num_completed = self._complete(now)
        if self._emerging:
            num_completed += self._emerge(now)
        self._plan(now)
        return num_completed

    def lose(self, now: float) -> list[int]:
        """Vanish in the middle of a run; return the requests that were here, in order of arrival."""
        if self.event_seconds == math.inf:
            return []
        self.busy_seconds += now - self._run.start_seconds
        if self._num_decoding and self.gaps is not None:
            num_ended = self._run.cut_after(now).num_steps - 1
            self.gaps.add_run(replace(self._run, num_steps=num_ended), self._num_decoding)
        self.event_seconds = math.inf
        return sorted([*self._running, *self._waiting])

    def _complete(self, now: float) -> int:
        finishes, running = self._finishes, self._running
        num_completed = 0
        while finishes and finishes[0][0] <= self._step:
            step, request = heappop(finishes)
            if running.get(request) == step:
                self._stop_decoding(request, self._log.most_kv_tokens(request))
                del running[request]
                self._log.completion_seconds[request] = now
                num_completed += 1
        return num_completed

    def _emerge(self, now: float) -> int:
        """Emit the token that ends a prefill: the first, or the first after an eviction."""
        log = self._log
        num_completed = 0
        for request in self._emerging:
            if request in log.paused_seconds:
                paused = log.paused_seconds.pop(request)
                if self.gaps is not None:
                    self.gaps.add(now - paused)
            else:
                log.first_token_seconds[request] = now
            held = log.prefill_tokens(request)
            steps_left = log.most_kv_tokens(request) - held
            self._num_decoding += 1
            self._context_tokens += held
            if steps_left:
                self._running[request] = self._step + steps_left
                heappush(self._finishes, (self._step + steps_left, request))
            else:
                self._stop_decoding(request, held)
                del self._running[request]
                log.completion_seconds[request] = now
                num_completed += 1
        self._emerging = []
        return num_completed

    def _stop_decoding(self, request: int, held_tokens: int) -> None:
        self._num_decoding -= 1
        self._context_tokens -= held_tokens
        self._kv_tokens -= held_tokens

    def _plan(self, now: float) -> None:
        evicts = self._kv_tokens + self._num_decoding > self._pool.kv_capacity_tokens
        while self._kv_tokens + self._num_decoding > self._pool.kv_capacity_tokens:
            self._evict_youngest(now)
        if not evicts and (self._waiting or self._partial is not None):
            tokens, pairs = self._plan_chunks()
            if tokens:
                self._set_run(StepRun(now, self._mixed_seconds(tokens, pairs), 0.0, 1))
                return
        if self._num_decoding:
            # The queue was not looked at in a step that evicts, so look after it.
            self._set_run(self._decode_run(now, 1 if evicts else self._steps_in_peace()))
        else:
            self.event_seconds = math.inf

    def _set_run(self, run: StepRun) -> None:
        self._run = run
        self.event_seconds = run.end_after(run.num_steps)

    def _evict_youngest(self, now: float) -> None:
        log = self._log
        request, finish = self._running.popitem()
        if finish == _PREFILLING:
            self._partial, self._partial_tokens = None, 0
            self._kv_tokens -= log.prefill_tokens(request)
        else:
            steps_left = finish - self._step
            self._stop_decoding(request, log.most_kv_tokens(request) - steps_left)
            log.emitted_tokens[request] = log.output_tokens[request] - steps_left
            log.paused_seconds[request] = now
        log.num_evictions[request] += 1
        self.num_evictions += 1
        self._waiting.appendleft(request)

    def _plan_chunks(self) -> tuple[int, float]:
        """Give what the decodes leave of the budget to prompts; return their tokens and pairs."""
        most_tokens = budget = self._pool.max_batched_tokens - self._num_decoding
        pairs = 0.0
        while budget:
            if self._partial is None:
                self._partial = self._admit()
            request = self._partial
            if request is None:
                break
            past = self._partial_tokens
            left = self._log.prefill_tokens(request) - past
            chunk = min(left, budget)
            budget -= chunk
            pairs += chunk * (past + (chunk + 1) / 2)
            self._partial_tokens = past + chunk
            if chunk == left:
                self._emerging.append(request)
                self._partial, self._partial_tokens = None, 0
        return most_tokens - budget, pairs

    def _admit(self) -> int | None:
        if not self._waiting or len(self._running) == self._pool.max_sequences:
            return None
        request = self._waiting[0]
        after = self._kv_tokens + self._num_decoding + self._log.prefill_tokens(request)
        if after > self._pool.kv_capacity_tokens:
            return None
        self._waiting.popleft()
        self._running[request] = _PREFILLING
        self._kv_tokens += self._log.prefill_tokens(request)
        return request

    def _mixed_seconds(self, prompt_tokens: int, pairs: float) -> float:
        decoding = self._num_decoding
        batch = StepBatch(prompt_tokens, pairs, decoding, self._context_tokens + decoding)
        return self._pool.step_times.step_seconds(batch)

    def _steps_in_peace(self) -> int:
        """Return how many decode steps end before somebody completes or memory runs out."""
        finishes = self._finishes
        while self._running.get(finishes[0][1]) != finishes[0][0]:
            heappop(finishes)
        free_tokens = self._pool.kv_capacity_tokens - self._kv_tokens
        return min(finishes[0][0] - self._step, free_tokens // self._num_decoding)

    def _decode_run(self, now: float, num_steps: int) -> StepRun:
        return self._decode_lines.run(
            now,
            sequences=self._num_decoding,
            context_tokens=self._context_tokens + self._num_decoding,
            num_steps=num_steps,
        )
