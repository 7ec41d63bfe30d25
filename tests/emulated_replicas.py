"""A fleet of emulated replicas behind the router's own choice, in virtual time.

Each replica batches continuously as vLLM does: a step takes every running sequence one token further
and reads up to `STEP_TOKENS` of waiting prompts; its time is that of a roofline. The KV memory is counted
in blocks of 16 tokens that requests with the same beginning share; blocks nobody uses stay until room
is needed, the least recently used going first. The router sees prompts as text, four characters a token.
"""

import heapq
import random
import statistics
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from router.base import Query
from router.config import ModelConfig
from router.fleet import Fleet
from router.input_size import InputSizes
from router.metrics import RouterMetrics
from router.output_length import OutputLengths
from router.policies.registry import make_policy
from router.policy_config import PolicyConfig, PrefixAwareConfig
from router.replica import Lease
from router.replica_choice import Choice, ReplicaChoice
from router.traffic_log import RequestRecord
from router.usage import Usage

BLOCK_TOKENS = 16
CHARACTERS_PER_TOKEN = 4
STEP_TOKENS = 2048
MOST_SEQUENCES = 256


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device and a dense model on it; the time of a step is what is slower, bytes or products."""

    kv_tokens: int
    bytes_per_second: float
    flops_per_second: float
    weight_bytes: float = 16e9
    flops_per_token: float = 16e9
    kv_bytes_per_token: float = 131_072

    def step_seconds(self, read_tokens: int, num_sequences: int, context_tokens: int) -> float:
        """Return the time to read so many prompt tokens and decode so many sequences."""
        products = self.flops_per_token * (read_tokens + num_sequences) / self.flops_per_second
        weights = self.weight_bytes / self.bytes_per_second
        context = self.kv_bytes_per_token * context_tokens / self.bytes_per_second
        return 0.002 + max(weights, products) + context


@dataclass(slots=True)
class Request:
    """One request and what became of it."""

    text: str
    output_tokens: int
    blocks: tuple[int, ...] = ()
    """Hash of each 16 tokens of the input and all before them."""
    arrived_at: float = 0.0
    first_token_at: float = 0.0
    cached_tokens: int = 0
    unread_tokens: int = 0
    num_written: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        size, chain, found = BLOCK_TOKENS * CHARACTERS_PER_TOKEN, 0, []
        for start in range(0, len(self.text), size):
            chain = hash((chain, self.text[start : start + size]))
            found.append(chain)
        self.blocks = tuple(found)

    @property
    def input_tokens(self) -> int:
        """How long its input is."""
        return len(self.text) // CHARACTERS_PER_TOKEN


@dataclass(slots=True)
class EmulatedReplica:
    """One replica in virtual time."""

    hardware: Hardware
    waiting: deque[Request] = field(default_factory=deque)
    running: list[Request] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=dict)
    """Block to the number of running requests that use it."""
    idle: "OrderedDict[int, None]" = field(default_factory=OrderedDict)
    """Blocks nobody uses, the least recently used first."""
    own_blocks: int = 0
    """Blocks of output, which nobody shares."""
    is_stepping: bool = False

    def begin_step(self) -> float:
        """Admit what fits, and return how long the next step takes."""
        while self.waiting and len(self.running) < MOST_SEQUENCES and self._admit(self.waiting[0]):
            self.running.append(self.waiting.popleft())
        budget, context, decoding = STEP_TOKENS, 0, 0
        for each in self.running:
            if each.unread_tokens:
                budget -= min(budget, each.unread_tokens)
            else:
                decoding += 1
                context += each.input_tokens + each.num_written
        return self.hardware.step_seconds(STEP_TOKENS - budget, decoding, context)

    def end_step(self, now: float) -> list[Request]:
        """Take every running sequence further, and return those that are complete."""
        budget, complete = STEP_TOKENS, []
        for each in self.running:
            if each.unread_tokens:
                read = min(budget, each.unread_tokens)
                budget -= read
                each.unread_tokens -= read
                if each.unread_tokens:
                    continue
            each.num_written += 1
            each.first_token_at = each.first_token_at or now
            if each.num_written == each.output_tokens:
                complete.append(each)
        for each in complete:
            self.running.remove(each)
            self._release(each)
        return complete

    def _admit(self, request: Request) -> bool:
        """Take the request's blocks if there is room; what is held already need not be read."""
        held = 0
        for block in request.blocks:
            if block not in self.used and block not in self.idle:
                break
            held += 1
        own = -(-request.output_tokens // BLOCK_TOKENS)
        reused = sum(block in self.idle for block in request.blocks[:held])
        room = self.hardware.kv_tokens // BLOCK_TOKENS - len(self.used) - self.own_blocks
        needed = len(request.blocks) - held + reused + own
        if needed > room and self.running:
            return False
        for block in request.blocks:
            self.idle.pop(block, None)
            self.used[block] = self.used.get(block, 0) + 1
        self.own_blocks += own
        capacity = self.hardware.kv_tokens // BLOCK_TOKENS
        while self.idle and len(self.used) + self.own_blocks + len(self.idle) > capacity:
            self.idle.popitem(last=False)
        # The last token is always read, so that there is a next one to write.
        request.cached_tokens = min(held * BLOCK_TOKENS, request.input_tokens - 1)
        request.unread_tokens = request.input_tokens - request.cached_tokens
        return True

    def _release(self, request: Request) -> None:
        self.own_blocks -= -(-request.output_tokens // BLOCK_TOKENS)
        for block in reversed(request.blocks):
            self.used[block] -= 1
            if not self.used[block]:
                del self.used[block]
                self.idle[block] = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run has shown."""

    cached_fraction: float
    mean_ttft_seconds: float
    p95_ttft_seconds: float
    requests_per_second: float
    load_variation: float
    """Standard deviation by mean of the requests each replica was given."""
    num_left: int
    """Requests that the router still counts after the end."""


def run_fleet(
    requests: Sequence[Request],
    policy: PolicyConfig,
    hardware: Sequence[Hardware],
    *,
    concurrency: int | None = None,
    requests_per_second: float | None = None,
    seed: int = 0,
) -> Figures:
    """Send `requests` in order: so many at a time, or at random moments of so many a second."""
    return _Run(requests, policy, hardware, seed).run(concurrency, requests_per_second)


class _Run:
    def __init__(
        self,
        requests: Sequence[Request],
        policy: PolicyConfig,
        hardware: Sequence[Hardware],
        seed: int,
    ) -> None:
        self._now = 0.0
        self._rng = random.Random(seed)
        self._requests = list(requests)
        urls = [f"http://replica-{place}" for place in range(len(hardware))]
        model = ModelConfig.model_validate(
            {"name": "m", "replicas": [{"url": url} for url in urls]}
        )
        self._replicas = dict(zip(urls, map(EmulatedReplica, hardware), strict=True))
        self._fleet = Fleet([model], monotonic=self._clock)
        sizes = InputSizes(["m"])
        self._choice = ReplicaChoice(
            self._fleet,
            make_policy(policy, self._rng.random),
            sizes,
            OutputLengths(),
            RouterMetrics(self._fleet, sizes),
            prefix_nodes=policy.most_nodes if isinstance(policy, PrefixAwareConfig) else 0,
            monotonic=self._clock,
        )
        self._leases: dict[int, tuple[Lease, Query]] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def run(self, concurrency: int | None, requests_per_second: float | None) -> Figures:
        """Run to the end of the last request."""
        pending = deque(self._requests)
        self._next = pending.popleft if concurrency else None
        self._pending = pending
        if requests_per_second:
            at = 0.0
            for request in self._requests:
                at += self._rng.expovariate(requests_per_second)
                self._at(at, lambda request=request: self._send(request))
        for _ in range(min(concurrency or 0, len(pending))):
            self._send(pending.popleft())
        while self._events:
            self._now, _, act = heapq.heappop(self._events)
            act()
        return self._figures()

    def _clock(self) -> float:
        return self._now

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, len(self._events) + self._rng.getrandbits(30), act))

    def _send(self, request: Request) -> None:
        query = Query("m", {"prompt": request.text, "max_tokens": 1024})
        choice = self._choice.choose(query, ())
        assert isinstance(choice, Choice)
        request.arrived_at, request.url = self._now, choice.url
        self._leases[id(request)] = (self._choice.lease(choice), query)
        replica = self._replicas[choice.url]
        replica.waiting.append(request)
        if not replica.is_stepping:
            self._step(replica)

    def _step(self, replica: EmulatedReplica) -> None:
        replica.is_stepping = True
        self._at(self._now + replica.begin_step(), lambda: self._stepped(replica))

    def _stepped(self, replica: EmulatedReplica) -> None:
        for request in replica.end_step(self._now):
            self._complete(request)
        if replica.running or replica.waiting:
            self._step(replica)
        else:
            replica.is_stepping = False

    def _complete(self, request: Request) -> None:
        lease, query = self._leases.pop(id(request))
        lease.release()
        record = RequestRecord(0.0, request.arrived_at, "r", "m", request.url, is_stream=True)
        record.usage = Usage(request.input_tokens, request.output_tokens)
        record.first_byte_at, record.last_byte_at = request.first_token_at, self._now
        record.status = 200
        self._choice.learn(query, record)
        if self._next is not None and self._pending:
            self._send(self._next())

    def _figures(self) -> Figures:
        requests = self._requests
        ttfts = sorted(each.first_token_at - each.arrived_at for each in requests)
        counts = [sum(each.url == url for each in requests) for url in self._replicas]
        replicas = self._fleet.replicas
        left = sum(each.num_outstanding + each.outstanding_tokens for each in replicas)
        return Figures(
            cached_fraction=sum(each.cached_tokens for each in requests)
            / sum(each.input_tokens for each in requests),
            mean_ttft_seconds=statistics.fmean(ttfts),
            p95_ttft_seconds=ttfts[int(0.95 * len(ttfts))],
            requests_per_second=len(requests) / self._now,
            load_variation=statistics.pstdev(counts) / statistics.fmean(counts),
            num_left=left,
        )


def text_of(tokens: int, seed: object) -> str:
    """Return made-up text of so many tokens that no other seed has."""
    letters = random.Random(repr(seed)).choices("abcdefghijklmnopqrstuvwxyz ", k=64)
    start = "".join(letters)
    return (start * (tokens * CHARACTERS_PER_TOKEN // 64 + 1))[: tokens * CHARACTERS_PER_TOKEN]
