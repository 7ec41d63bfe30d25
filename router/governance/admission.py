"""One request let in: what was reserved for it, and what it turned out to use."""

from dataclasses import dataclass

from router.governance.tenant import Tenant
from router.traffic_log import RequestRecord


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens a request may take."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Admission:
    """A request's standing; mutable, settled exactly once by `Governance.settle`."""

    tenant: Tenant
    estimate: Estimate | None = None
    """None where nothing of the client's is limited by tokens or cost."""
    reserved_tokens: int = 0
    reserved_nanousd: int = 0
    reserved_second: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """OpenAI's `x-ratelimit-*` for the answer."""
    is_settled: bool = False


def used_tokens(record: RequestRecord, estimate: Estimate | None) -> tuple[int, int]:
    """Return the prompt and completion tokens a request is charged with.

    What the replica reported. Where an answer or stream came without counts, what was estimated, and
    the pieces of text that were sent as the least of the completion; without an answer nothing.
    """
    prompt, completion = record.usage.prompt_tokens, record.usage.completion_tokens
    if prompt is not None and completion is not None:
        return max(0, prompt), max(0, completion)
    if record.first_byte_at is None and record.status != 200:
        return max(0, prompt or 0), max(0, completion or 0)
    if prompt is None:
        prompt = 0 if estimate is None else estimate.prompt_tokens
    if completion is None:
        pieces = record.num_text_pieces
        assumed = 0 if estimate is None else estimate.completion_tokens
        completion = assumed if pieces is None else pieces
    return max(0, prompt), max(0, completion)
