"""What one answer has cost on either side: requests, tokens, money."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from router.input_size import START_TOKENS_PER_BYTE
from router.minions.asking import Ask, Message, Reply, Schema, num_bytes


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost."""

    input_usd_per_million: float
    output_usd_per_million: float


@dataclass(slots=True)
class Side:
    """The requests of one answer to one model; requests that were cut off are not in it."""

    price: Price | None = None
    """None: not known, and then the cost is not either."""
    num_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_estimated: int = 0
    """Requests whose replica reported no usage: their tokens are estimated from bytes."""
    prompt_bytes: int = 0
    """Of the requests with a report."""
    reported_prompt_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost_usd(self) -> float | None:
        """What the tokens cost; None without a price."""
        if self.price is None:
            return None
        cost = self.prompt_tokens * self.price.input_usd_per_million
        cost += self.completion_tokens * self.price.output_usd_per_million
        return cost / 1e6

    @property
    def tokens_per_byte(self) -> float:
        """The ratio in this answer's prompts, chat template included; a start value before any."""
        if not self.prompt_bytes:
            return START_TOKENS_PER_BYTE
        return max(0.01, self.reported_prompt_tokens / self.prompt_bytes)

    def estimate(self, messages: Sequence[Message]) -> int:
        """Return about how many tokens a prompt has, at least 1."""
        return max(1, round(num_bytes(messages) * self.tokens_per_byte))

    def add(self, messages: Sequence[Message], reply: Reply) -> None:
        """Count one request."""
        prompt, completion = reply.usage.prompt_tokens, reply.usage.completion_tokens
        self.num_requests += 1
        if prompt is None or completion is None:
            self.num_estimated += 1
        if prompt is None:
            prompt = self.estimate(messages)
        else:
            self.prompt_bytes += num_bytes(messages)
            self.reported_prompt_tokens += prompt
        if completion is None:
            completion = round(len(reply.text.encode()) * START_TOKENS_PER_BYTE)
        self.prompt_tokens += prompt
        self.completion_tokens += completion


@dataclass(slots=True)
class Ledger:
    """Both sides."""

    local: Side = field(default_factory=Side)
    remote: Side = field(default_factory=Side)

    @property
    def cost_usd(self) -> float | None:
        """What both cost; None where the price of either is not known."""
        local, remote = self.local.cost_usd, self.remote.cost_usd
        return None if local is None or remote is None else local + remote


def counted(ask: Ask, side: Side) -> Ask:
    """Return `ask` with its requests counted on `side`."""

    async def asked(
        messages: Sequence[Message], *, max_tokens: int, schema: Schema | None = None
    ) -> Reply:
        reply = await ask(messages, max_tokens=max_tokens, schema=schema)
        side.add(messages, reply)
        return reply

    return asked
