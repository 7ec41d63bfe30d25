"""What the simulator knows and writes down about every request while it runs."""

from planner.simulator.trace import Trace


class RequestLog:
    """One entry a request in every column; replicas fill it in."""

    def __init__(self, trace: Trace) -> None:
        num_requests = len(trace)
        # Plain numbers in plain lists, whatever arrays the trace came in: they index fastest.
        self.arrival_seconds = list(map(float, trace.arrival_seconds))
        self.input_tokens = list(map(int, trace.input_tokens))
        self.output_tokens = list(map(int, trace.output_tokens))
        self.first_token_seconds = [0.0] * num_requests
        self.completion_seconds = [0.0] * num_requests
        self.num_evictions = [0] * num_requests
        self.emitted_tokens: dict[int, int] = {}
        """Tokens out when a request that decoded was last evicted."""
        self.paused_seconds: dict[int, float] = {}
        """When the last token before the eviction came out; gone once the next is out."""

    def prefill_tokens(self, request: int) -> int:
        """Return how many tokens the request's next or current prefill computes."""
        return self.input_tokens[request] + self.emitted_tokens.get(request, 0)

    def most_kv_tokens(self, request: int) -> int:
        """Return the KV memory the request holds in its last step."""
        return self.input_tokens[request] + self.output_tokens[request] - 1
