"""The rules of `planner.simulator` read literally: one step at a time, one token at a time.

Slow on purpose, and it shares no code with the simulator: it is its oracle.
"""

import random
from dataclasses import dataclass, field

from planner.speed.step_times import StepBatch


@dataclass
class SlowRequest:
    """A request and every instant at which a token of it came out."""

    number: int
    model: str
    arrival: float
    prompt: int
    answer: int
    place: tuple[int, int] = (-1, -1)
    computed: int = 0
    target: int = 0
    token_times: list[float] = field(default_factory=list)
    evictions: int = 0
    restarts: int = 0
    lost_token_times: list[list[float]] = field(default_factory=list)

    @property
    def decodes(self):
        """Whether the prefill is complete."""
        return self.computed >= self.target


class SlowReplica:
    """One replica; `until` is when its step ends, nothing while idle."""

    def __init__(self, pool):
        self.pool = pool
        self.queue = []
        self.members = []
        self.until = None
        self.outstanding = 0
        self.last_pick = 0

    def memory(self):
        """Tokens of KV memory in use: prefills hold all they will need."""
        return sum(max(member.computed, member.target) for member in self.members)

    def start_step(self, now):
        """Compose a step by (S1) to (S6)."""
        self.until = None
        evicted = False
        while True:
            decoding = [member for member in self.members if member.decodes]
            if self.memory() + len(decoding) <= self.pool.kv_capacity_tokens:
                break
            youngest = self.members.pop()
            youngest.computed = 0
            youngest.evictions += 1
            self.queue.insert(0, youngest)
            evicted = True
        budget = self.pool.max_batched_tokens - len(decoding)
        tokens, pairs = 0, 0.0
        self.emitting = list(decoding)
        context = sum(member.prompt + len(member.token_times) for member in decoding)
        for member in self.members:
            if not member.decodes and not evicted and budget > 0:
                chunk = min(budget, member.target - member.computed)
                pairs += sum(member.computed + new for new in range(1, chunk + 1))
                tokens, budget = tokens + chunk, budget - chunk
                member.computed += chunk
                self.emitting += [member] if member.decodes else []
        while not evicted and budget > 0 and self.queue:
            head = self.queue[0]
            target = head.prompt + len(head.token_times)
            free = self.pool.kv_capacity_tokens - self.memory() - len(decoding)
            if len(self.members) >= self.pool.max_sequences or target > free:
                break
            head.target = target
            self.members.append(self.queue.pop(0))
            chunk = min(budget, target)
            pairs += sum(range(1, chunk + 1))
            tokens, budget = tokens + chunk, budget - chunk
            head.computed = chunk
            self.emitting += [head] if head.decodes else []
        for member in decoding:
            member.computed += 1
        if self.emitting or tokens:
            batch = StepBatch(tokens, pairs, len(decoding), context)
            self.until = now + self.pool.step_times.step_seconds(batch)

    def end_step(self):
        """Emit tokens, let the completed go."""
        for member in self.emitting:
            member.token_times.append(self.until)
        ended = [member for member in self.members if len(member.token_times) == member.answer]
        self.members = [member for member in self.members if member not in ended]
        self.outstanding -= len(ended)
        self.start_step(self.until)


class SlowFleet:
    """Replicas pool by pool, the router, and how often it has picked."""

    def __init__(self, fleet, seed):
        self.draws = random.Random(seed)
        self.pools = [[SlowReplica(pool) for _ in range(pool.num_replicas)] for pool in fleet.pools]
        self.shares = fleet.shares
        self.turn = 0

    def route(self, request, now):
        """Queue a request at a replica by (R1) and (R2)."""
        pool = _pool_of(self.shares[request.model], request.prompt, self.draws.random())
        members = self.pools[pool]
        replica = min(members, key=lambda each: (each.outstanding, each.last_pick))
        self.turn += 1
        request.place = (pool, members.index(replica))
        replica.outstanding += 1
        replica.last_pick = self.turn
        replica.queue.append(request)
        if replica.until is None:
            replica.start_step(now)

    def lose(self, loss):
        """Take replicas away by (L1)."""
        gone = []
        for index, pool in enumerate(loss.left.pools):
            gone += self.pools[index][pool.num_replicas :]
            self.pools[index] = self.pools[index][: pool.num_replicas]
        self.shares = loss.left.shares
        stranded = [request for each in gone for request in each.members + each.queue]
        for request in sorted(stranded, key=lambda each: each.number):
            request.lost_token_times.append(request.token_times)
            request.restarts += 1
            request.computed, request.target, request.token_times = 0, 0, []
            self.route(request, loss.at_seconds)


def simulate_step_by_step(fleet, trace, seed, losses=()):
    """Return the requests of a trace, served."""
    slow = SlowFleet(fleet, seed)
    requests = [
        SlowRequest(*columns)
        for columns in zip(
            range(trace.num_requests),
            trace.models or [next(iter(fleet.shares))] * trace.num_requests,
            trace.arrival_seconds,
            trace.input_tokens,
            trace.output_tokens,
            strict=True,
        )
    ]
    events = [(loss.at_seconds, 0, slow.lose, (loss,)) for loss in losses]
    events += [(each.arrival, 1, slow.route, (each, each.arrival)) for each in requests]
    for now, _, happen, what in sorted(events, key=lambda event: event[:2]):
        _run_until(slow.pools, now)
        happen(*what)
    _run_until(slow.pools, float("inf"))
    return requests


def _run_until(pools, now):
    while True:
        busy = [each for pool in pools for each in pool if each.until is not None]
        first = min(busy, key=lambda each: each.until, default=None)
        if first is None or first.until > now:
            return
        first.end_step()


def _pool_of(sizes, prompt, draw):
    rows = zip(sizes.input_tokens_up_to, sizes.rows, strict=True)
    row = next((row for bound, row in rows if prompt <= bound), sizes.rows[-1])
    with_share = [index for index, share in enumerate(row) if share > 0]
    for index in with_share:
        draw -= row[index]
        if draw < 0:
            return index
    return with_share[-1]
