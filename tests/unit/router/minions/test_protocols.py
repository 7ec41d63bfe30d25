"""Both protocols over models that answer anything at all: a marked answer, within the limits."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from minions_models import EVERY_WORD, finding, plan, verdict

from router.errors import LegError
from router.minions.accounting import Ledger
from router.minions.asking import Message, Reply, num_bytes
from router.minions.chunks import Document
from router.minions.config import MinionsConfig
from router.minions.names import VirtualName
from router.minions.outcome import Outcome, Result
from router.minions.request import MinionsRequest
from router.minions.solving import Models, solve
from router.usage import Usage

LIMITS = MinionsConfig(
    max_rounds=3,
    max_tasks=2,
    max_jobs=12,
    max_concurrent_jobs=3,
    remote_tokens=4000,
    plan_answer_tokens=200,
    final_answer_tokens=200,
    plan_attempts=2,
    chunk_tokens=16,
    wall_seconds=2,
    closing_seconds=1,
)
TURN = '{"decision": "need_more", "message": "more"}'
REPLIES = st.one_of(
    st.none(),  # no answer at all
    st.text(max_size=50),
    st.sampled_from(
        [
            plan(EVERY_WORD),
            plan(EVERY_WORD, EVERY_WORD, EVERY_WORD),
            plan({"task": "t", "chunks": {"kind": "retrieve", "query": "q", "top_k": 2}}),
            plan({"task": "t", "chunks": {"kind": "range", "first": 1, "last": 1}, "earlier": [1]}),
            verdict("need_more"),
            verdict("need_more", "half", feedback="f", scratchpad="s" * 3000),
            verdict("final", "done"),
            verdict("final"),
            finding("a"),
            finding(None),
            TURN,
        ]
    ),
)


class Model:
    """A model that answers by a list, over and over; tokens are bytes by four."""

    def __init__(self, replies: Sequence[str | None]) -> None:
        self._replies = replies
        self.num_asked = 0
        self.num_running = 0
        self.most_running = 0
        self.num_tokens = 0

    async def __call__(
        self, messages: Sequence[Message], *, max_tokens: int, schema: object = None
    ) -> Reply:
        """Return the next reply, cut to its limit."""
        text = self._replies[self.num_asked % len(self._replies)]
        self.num_asked += 1
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        await asyncio.sleep(0)
        self.num_running -= 1
        if text is None:
            raise LegError("m", "scripted")
        shown = text[: max_tokens * 4]
        usage = Usage(num_bytes(messages) // 4, len(shown) // 4)
        self.num_tokens += num_bytes(messages) // 4 + len(shown) // 4
        return Reply(shown, usage, "stop" if shown == text else "length")


def solved(local: Model, remote: Model, protocol: str) -> tuple[Outcome | None, Ledger]:
    """Return how a request ended, None where nobody answered."""
    ledger = Ledger()
    name = VirtualName(protocol, "small", "large")  # type: ignore[arg-type]
    document = Document("The bell rang at four in the morning. " * 10)
    request = MinionsRequest("When?", (document,), "documents", False, False, None, {})
    models = Models(local, remote, ledger)

    async def run() -> Outcome | None:
        try:
            return await solve(name, request, models, LIMITS, tell=lambda _: None)
        except LegError:
            return None

    return asyncio.run(run()), ledger


@given(
    local=st.lists(REPLIES, min_size=1, max_size=5),
    remote=st.lists(REPLIES, min_size=1, max_size=8),
    protocol=st.sampled_from(["minions", "minion"]),
)
def test_any_two_models_end_in_an_answer_within_the_limits(local, remote, protocol) -> None:
    """Whatever they say, in whatever order; only where a model is silent may there be no answer."""
    small, large = Model(local), Model(remote)
    outcome, ledger = solved(small, large, protocol)
    assert large.num_tokens <= LIMITS.remote_tokens * 1.05
    assert ledger.remote.total_tokens == large.num_tokens
    assert ledger.local.total_tokens == small.num_tokens
    assert small.num_running == large.num_running == 0
    if outcome is None:
        assert None in local or None in remote
        return
    assert outcome.answer
    assert outcome.result in Result
    assert outcome.num_jobs <= LIMITS.max_jobs
    assert outcome.num_rounds <= LIMITS.max_rounds
    assert small.most_running <= LIMITS.max_concurrent_jobs
    assert small.num_asked <= LIMITS.max_jobs * (1 + LIMITS.repair_attempts) + 1
    unfound = outcome.num_empty + outcome.num_abstained + outcome.num_failed
    assert 0 <= unfound <= outcome.num_jobs


@given(jobs=st.lists(st.sampled_from([finding("a"), finding(None), "?"]), min_size=1, max_size=9))
def test_jobs_are_counted_by_their_end(jobs) -> None:
    """Found, empty and abstained make up all of them; an abstention has cost one repair."""
    small = Model(jobs)
    outcome, _ = solved(small, Model(["look", plan(EVERY_WORD), verdict("final", "x")]), "minions")
    assert outcome is not None
    assert outcome.result is Result.FINISHED
    assert small.num_asked >= outcome.num_jobs + outcome.num_abstained
    assert outcome.num_failed == 0
