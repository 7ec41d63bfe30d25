"""What the simulator knows and writes down about every request while it runs."""

from planner.workloads.trace import Trace


class RequestLog:
    """One entry a request in every column; replicas fill it in."""

    def __init__(self, trace: Trace) -> None:
        num_requests = trace.num_requests
        self.arrival_seconds = trace.arrival_seconds
        self.input_tokens = trace.input_tokens
        self.output_tokens = trace.output_tokens
        self.first_token_seconds = [0.0] * num_requests
        self.completion_seconds = [0.0] * num_requests
        self.num_evictions = [0] * num_requests
        self.num_restarts = [0] * num_requests
        self.emitted_tokens: dict[int, int] = {}
        """Tokens out when a request that decoded was last evicted."""
        self.paused_seconds: dict[int, float] = {}
        """When the last token before the eviction came out; gone once the next is out."""

    def prefill_tokens(self, request: int) -> int:
        """Return how many tokens the request's next or current prefill computes."""
        return self.input_tokens[request] + self.emitted_tokens.get(request, 0)

    def restart(self, request: int) -> None:
        """Forget what a request got from a replica that was lost."""
        self.num_restarts[request] += 1
        self.emitted_tokens.pop(request, None)
        self.paused_seconds.pop(request, None)

    def most_kv_tokens(self, request: int) -> int:
        """Return the KV memory the request holds in its last step."""
        return self.input_tokens[request] + self.output_tokens[request] - 1
