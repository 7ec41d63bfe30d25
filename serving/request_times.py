"""How long requests take, under vLLM's metric names: first token, between tokens, whole answers.

Measured in the endpoint's process, as a client would find it without the network.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS_SECONDS = tuple(digit * 10.0**power for power in range(-3, 3) for digit in (1.0, 2.5, 5.0))
"""Upper bounds of the histograms' buckets: a millisecond to 500 seconds."""

_HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request's arrival to its first token",
    "inter_token_latency_seconds": "Between two messages of new tokens; one may hold several",
    "request_time_per_output_token_seconds": "From first to last token, by tokens after the first",
    "e2e_request_latency_seconds": "From a request's arrival to its last token",
}
_VLLM_REASONS = {"tool_calls": "stop"}
"""What vLLM's engine says where a chat's answer has a word of its own."""


class Histogram:
    """Counts of values by bucket."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        """Values in each bucket, those above the last bound at the end."""
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count a value; takes well below a microsecond, as every streamed chunk does it."""
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound with how many values lie at or below it, as Prometheus reads it."""
        bounds = (*map(str, BOUNDS_SECONDS), "+Inf")
        total, found = 0, []
        for bound, count in zip(bounds, self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class RequestTimes(Collector):
    """Totals since the endpoint started."""

    def __init__(self, model_name: str, *, now: Callable[[], float] = time.monotonic) -> None:
        """Report under the label `model_name`; `now` gives seconds."""
        self._model_name = model_name
        self.now = now
        self.histograms = {name: Histogram() for name in _HISTOGRAMS}
        self.finished: Counter[str] = Counter()
        """Answers that ended, by vLLM's word for the reason."""

    def watch(self, arrival_seconds: float) -> "AnswerWatch":
        """Return what follows one answer to a request that came then."""
        return AnswerWatch(self, arrival_seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        for name, text in _HISTOGRAMS.items():
            histogram = self.histograms[name]
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=["model_name"])
            family.add_metric([self._model_name], histogram.buckets(), histogram.sum_seconds)
            yield family
        success = CounterMetricFamily(
            "vllm:request_success",
            "Answers that ended, by reason",
            labels=["model_name", "finished_reason"],
        )
        for reason, count in sorted(self.finished.items()):
            success.add_metric([self._model_name, reason], count)
        yield success

    def exposition(self) -> bytes:
        """Return everything in Prometheus's text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)


class AnswerWatch:
    """Times one answer as its tokens come."""

    def __init__(self, times: RequestTimes, arrival_seconds: float) -> None:
        self._times = times
        self._arrival_seconds = arrival_seconds
        self._first_seconds = self._last_seconds = 0.0
        self._num_tokens = 0
        self._is_ended = False

    def __enter__(self) -> Self:
        """Follow the answer until its end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Count an answer whose client left before its end; a failure is no answer."""
        is_left = kind is not None and not issubclass(kind, Exception)
        if is_left and not self._is_ended:
            self._times.finished["abort"] += 1

    def take(self, num_tokens: int, finish_reason: str | None) -> None:
        """Count a message of new tokens, and the answer's end where it has a reason."""
        now, histograms = self._times.now(), self._times.histograms
        if num_tokens and not self._num_tokens:
            self._first_seconds = now
            histograms["time_to_first_token_seconds"].observe(now - self._arrival_seconds)
        elif num_tokens:
            histograms["inter_token_latency_seconds"].observe(now - self._last_seconds)
        if num_tokens:
            self._num_tokens += num_tokens
            self._last_seconds = now
        if finish_reason is not None:
            self._end(now, finish_reason)

    def _end(self, now: float, finish_reason: str) -> None:
        histograms = self._times.histograms
        histograms["e2e_request_latency_seconds"].observe(now - self._arrival_seconds)
        if self._num_tokens > 1:
            mean = (self._last_seconds - self._first_seconds) / (self._num_tokens - 1)
            histograms["request_time_per_output_token_seconds"].observe(mean)
        self._times.finished[_VLLM_REASONS.get(finish_reason, finish_reason)] += 1
        self._is_ended = True
